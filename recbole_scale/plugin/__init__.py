"""What is added to RecBole, and what is replaced in it; importing RecBole (see ``on_import``) carries it out."""

import recbole  # noqa: F401 (registers the plugin, before a module of it that needs RecBole is half loaded)
