"""Does a model do what its figures make believe?"""
