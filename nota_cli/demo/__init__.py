"""A page to listen on: recordings in, answers streamed, with what they cost."""
