"""The recipes that ship with nota, by family."""

from nota_cli.recipe.load import load_any_recipe, recipe_names

SALMONN = sorted(name for name in recipe_names() if load_any_recipe(name).family == "salmonn")
PUBLIC = sorted(set(recipe_names()) - set(SALMONN))
