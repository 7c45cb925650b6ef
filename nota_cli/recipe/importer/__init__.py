"""The YAML configs of SALMONN, of the organisers and of the teams, which share one layout, turned into recipes."""

from nota_cli.recipe.importer.mapping import Imported, import_config

__all__ = ["Imported", "import_config"]
