"""Our trained models in NeMo's list of pretrained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nemo.collections.asr.models.asr_model import ASRModel
from nemo.core.classes.common import PretrainedModelInfo

from nas_encoder.nemo.catalog import entries


class NASModel(ASRModel):
    """A catalogue of our models, not a model class.

    ``NASModel.from_pretrained`` takes a listed name, the path of a ``.nemo`` file or a ``file://``
    URL and returns the NeMo class that the file names, as ``ASRModel.from_pretrained`` does for
    listed names. So NeMo and the encoder suffice to read the checkpoints.
    """

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """Return the models of :mod:`nas_encoder.nemo.catalog`.

        ``ASRModel.list_available_models()`` includes them.
        """
        return [
            PretrainedModelInfo(
                pretrained_model_name=entry.name,
                description=entry.description,
                location=entry.path.as_uri(),
                class_=ASRModel,
            )
            for entry in entries()
        ]

    @classmethod
    def from_pretrained(cls, model_name: str, *args: Any, **options: Any) -> Any:
        """Restore a model by name, path or ``file://`` URL.

        Args:
            model_name: The name, path or URL.
            args: Passed on to NeMo.
            options: Passed on to NeMo; ``refresh_cache`` does not affect paths.

        Raises:
            FileNotFoundError: There is no such file or name.
        """
        path = local_path(str(model_name))
        if path is None:
            return super().from_pretrained(model_name, *args, **options)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        names = ("refresh_cache", "override_config_path", "map_location", "strict")
        options |= dict(zip(names, args, strict=False))
        options.pop("refresh_cache", None)
        if options.pop("return_model_file", False):
            return str(path)
        return ASRModel.restore_from(str(path), **options)


def local_path(name: str) -> Path | None:
    """Return the file that a path or ``file://`` URL names; None for any other name."""
    if name.startswith("file://"):
        return Path(unquote(urlsplit(name).path))
    if name.endswith(".nemo"):
        return Path(name).expanduser()
    return None
