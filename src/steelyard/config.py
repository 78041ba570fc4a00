"""The settings as one frozen value.

Read once from `steelyard.toml`, then `STEELYARD_*`, then command options (each beats the one before) and passed down.
Prices, plans and models are dated data in the books, never settings.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from steelyard.kernel import limits
from steelyard.kernel.cpus import cpus_allowed
from steelyard.kernel.directory import DatabaseUrl, DataDir
from steelyard.kernel.errors import StartError

SETTINGS_FILE = "steelyard.toml"


def _threads() -> int:
    """One core stays free for the platform itself.

    llama.cpp's threads wait for each other by spinning: with as many threads as cores, one busy neighbour was measured
    to cut decoding from 130 to 30 tokens/s; with one thread fewer it stayed at 80, at less CPU per token.
    """
    return max(1, min(8, cpus_allowed() - 1))


def workers_for(cpus: int, engine_threads: int) -> int:
    """How many workers `auto` is: two thirds of the CPUs that the engine leaves, at least one.

    The books post what the workers serve: small requests were measured to keep them half as busy as one worker.
    """
    return max(1, min(limits.WORKERS_MAX, (cpus - engine_threads) * 2 // 3))


class Settings(BaseSettings):
    """Every setting with its default; `steelyard config show` prints where each value came from."""

    model_config = SettingsConfigDict(
        env_prefix="STEELYARD_",
        env_ignore_empty=True,  # of a script whose own variable is not set
        toml_file=SETTINGS_FILE,
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    data: Path = Field(Path("steelyard-data"), description="the data directory: books, journals, keys")
    database: SecretStr = Field(
        SecretStr(""), description="a postgresql:// URL for the books; empty: SQLite in the data directory"
    )
    host: str = Field("127.0.0.1", description="address the public port binds")
    port: int = Field(8780, ge=1, le=65535, description="the public port")
    workers: int = Field(
        1, ge=1, le=limits.WORKERS_MAX, description="worker processes on the public port; auto: as many as have CPUs"
    )
    engine: Literal["auto", "openvino", "xllamacpp", "none"] = Field(
        "auto", description="the local engine; auto: what `steelyard engines` says; none: other upstreams only"
    )
    small: bool = Field(False, description="the engine takes less memory and does less at once")
    speculate: Literal["off", "lookup", "mtp"] = Field(
        "off",
        description="how the engine drafts tokens: lookup: from what was there before; mtp: by layers made for it",
    )
    model: Path | None = Field(None, description="a GGUF file to serve instead of the built-in model")
    embeddings: bool = Field(True, description="run the built-in embedding model beside the engine")
    threads: int = Field(default_factory=_threads, ge=1, le=256, description="CPU threads of the engine")
    slots: int = Field(4, ge=1, le=64, description="sequences the engine decodes at once")
    context: int = Field(4096, ge=256, le=1_048_576, description="tokens of context per sequence")
    durability: Literal["normal", "strict"] = Field(
        "normal", description="strict holds the last bytes of an answer until its close is on the disk"
    )
    front: Literal["auto", "fast", "asgi"] = Field(
        "auto",
        description="how hot URLs are served: from the connection (fast) or over ASGI; auto: fast where it can be",
    )
    batch_lines: int = Field(2, ge=1, le=64, description="lines of batches that one worker runs at once")
    cors_origins: str = Field(
        "", description="origins of web pages that may ask the API from a browser, comma-separated; * for any"
    )
    ca_file: Path | None = Field(
        None, description="a PEM file of CAs that upstreams' certificates may have beside the system's"
    )
    store_days: int = Field(
        limits.STORE_DAYS, ge=0, le=3650, description="days a response is stored for its customer; 0: none is"
    )
    drain_s: int = Field(limits.DRAIN_S, ge=0, le=3600, description="seconds running streams get at shutdown")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_have_cpus(cls, told: dict[str, Any]) -> dict[str, Any]:
        if str(told.get("workers", "")).lower() != "auto":
            return told
        runs = cls._was_yes_or_no(told.get("engine", "auto")) != "none"
        threads = int(told.get("threads") or _threads()) if runs else 0
        return told | {"workers": workers_for(cpus_allowed(), threads)}

    @field_validator("engine", mode="before")
    @classmethod
    def _was_yes_or_no(cls, value: Any) -> Any:
        """Until 0.2 this said whether there is to be an engine."""
        word = str(value).lower()
        return {"true": "auto", "1": "auto", "yes": "auto", "false": "none", "0": "none", "no": "none"}.get(word, word)

    @field_validator("database")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        scheme = value.get_secret_value().partition("://")[0]
        if scheme not in {"", "postgresql", "postgres", "postgresql+psycopg"}:
            raise ValueError("it is a postgresql:// URL, or empty")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def origins(self, options: dict[str, Any]) -> dict[str, str]:
        """Setting → "option", "environment", the settings file's name, or "default"."""
        in_file = TomlConfigSettingsSource(type(self))()
        found: dict[str, str] = {}
        for name in type(self).model_fields:
            if options.get(name) is not None:
                found[name] = "option"
            elif f"STEELYARD_{name.upper()}" in {key.upper() for key, text in os.environ.items() if text}:
                found[name] = "environment"
            elif name in in_file:
                found[name] = SETTINGS_FILE
            else:
                found[name] = "default"
        return found


def load_settings(**options: Any) -> Settings:
    """The settings with the given command options on top; options that are None do not count.

    Raises StartError naming the setting and what it takes.
    """
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise StartError(f"The setting '{name}' is not usable: {first['msg']}.") from None
    except ValueError as error:  # broken TOML
        raise StartError(f"{SETTINGS_FILE} cannot be read: {error}.") from None


def directory_of(settings: Settings) -> DataDir:
    """The data directory, with the database its books are in."""
    return DataDir(settings.data, DatabaseUrl(settings.database.get_secret_value()))
