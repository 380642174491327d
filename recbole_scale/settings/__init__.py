"""Settings: read safely, known by name, typed and checked in one place, before anything is spent."""

from recbole_scale.settings.checks import check_settings
from recbole_scale.settings.identity import BY_DATA, before_data, run_id
from recbole_scale.settings.keys import MANY, ScaledSASRecSettings
from recbole_scale.settings.known import check_keys, known_keys
from recbole_scale.settings.package_keys import FMLPRecSettings, PackageSettings
from recbole_scale.settings.reading import (
    SettingsLoader,
    find_settings_file,
    load_settings_file,
    parse_arguments,
    parse_value,
    properties_folder,
    settings_text,
    value_text,
)

__all__ = [
    "BY_DATA",
    "MANY",
    "FMLPRecSettings",
    "PackageSettings",
    "ScaledSASRecSettings",
    "SettingsLoader",
    "before_data",
    "check_keys",
    "check_settings",
    "find_settings_file",
    "known_keys",
    "load_settings_file",
    "parse_arguments",
    "parse_value",
    "properties_folder",
    "run_id",
    "settings_text",
    "value_text",
]
