"""Load a model's processor, with or without torchvision, and never a bare tokenizer by accident.

Stock `AutoProcessor` needs torchvision for every model that also takes videos, for the video half alone, and a custom class that
is not registered comes back silently as a tokenizer. So without torchvision an image-only processor takes its place.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoProcessor, ProcessorMixin, Qwen2_5_VLProcessor
from transformers.models.auto import processing_auto
from transformers.utils.import_utils import is_torchvision_available

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.descriptions import OF_PROMPTS, require_readable, require_vocabulary
from gtrturbo.models.families import Family
from gtrturbo.models.hub_names import cached_folder
from gtrturbo.models.reading import missing_package
from gtrturbo.store.files import save_json
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import PROCESSOR_CONFIG, TOKENIZER, TOKENIZER_CONFIG

VIDEO_HALF = "video_processor"
TOKENIZER_PARTS = {"model", "added_tokens"}  # Of a tokenizer.json, which transformers looks for.


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2-VL's and Qwen2.5-VL's processor without the video half, which is what needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # The parent's __init__ asks for a video processor, so it is passed over.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def load_processor(source: str | Path, *, family: Family, **where: Any) -> Any:
    """Load tokenizer, image processor and chat template of a model folder or hub id, padding on the left.

    Args:
        source: folder or hub id.
        family: of the model.
        where: `revision` or `local_files_only`, handed on to transformers.

    Raises:
        GtrTurboError: a file of it is damaged, its tokenizer is not there, or the model has no processor that takes images and
            text, or no end of a turn.
    """
    is_folder = Path(source).is_dir()
    if is_folder:
        require_readable(Path(source), OF_PROMPTS)
        require_vocabulary(Path(source), str(source))
    try:
        processor = _loader(source, family, where).from_pretrained(source, **where)
    except Exception as error:  # tokenizers raises nothing narrower, and transformers a KeyError of what it looks for there.
        if needed := missing_package(error):
            raise GtrTurboError(
                f"the processor of {source} needs {needed.split()[0]}, which is not installed.",
                f"install it: pip install {needed}",
            ) from None
        if is_folder:
            _require_whole(Path(source) / TOKENIZER)
        raise
    if not is_folder and (fetched := cached_folder(str(source), where.get("revision"))):
        require_vocabulary(fetched, str(source))
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "image_processor"):
        raise GtrTurboError(
            f"{source} has no image-and-text processor, only {type(processor).__name__}.",
            "choose an image-text-to-text model; some need: pip install torchvision",
        )
    if processor.tokenizer.eos_token_id is None:
        raise GtrTurboError(
            f"the tokenizer of {source} names no eos_token, so that no reply would end.",
            f"name it in {TOKENIZER_CONFIG}: the token that ends a turn.",
        )
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _require_whole(file: Path) -> None:
    """Refuse a tokenizer.json that is JSON and no tokenizer."""
    if not file.is_file():
        return
    mend = f"put the file back; {mend_of(file.parent)}"
    try:
        Tokenizer.from_file(str(file))
    except Exception:
        raise GtrTurboError(f"{file} is damaged: it is JSON, and no tokenizer.", mend) from None
    if lacking := TOKENIZER_PARTS - json.loads(file.read_bytes()).keys():
        raise GtrTurboError(f"{file} is damaged: it has no {min(lacking)}.", mend)


def _loader(source: str | Path, family: Family, where: dict[str, Any]) -> Any:
    """Choose what loads a processor: without torchvision one that leaves the video half out, where the model's has one."""
    if is_torchvision_available():
        return AutoProcessor
    if family.image_only:
        return ImageOnlyProcessor
    kind = getattr(transformers, _class_name(source, where) or "", None)
    if isinstance(kind, type) and issubclass(kind, ProcessorMixin) and VIDEO_HALF in kind.get_attributes():
        return _without_videos(kind)
    return AutoProcessor


def _class_name(source: str | Path, where: dict[str, Any]) -> str | None:
    """Name the class of a model's processor: as a saved one says it, else by the type of the model."""
    try:
        named = ProcessorMixin.get_processor_dict(source, **where)[0].get("processor_class")
        names: Any = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
        return named or names.get(AutoConfig.from_pretrained(source, **where).model_type)
    except (OSError, ValueError):
        return None


def _without_videos(kind: type[ProcessorMixin]) -> Any:
    """Make a class of processors, under the same name, whose video half is neither loaded nor saved."""

    class ImageHalf(kind):
        video_processor = SimpleNamespace(num_frames=None, fps=None)  # What some look at where there is no video, too.

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != VIDEO_HALF]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **settings: Any) -> Any:
            made = super().from_args_and_dict([*args, None], processor_dict, **settings)  # None is for the video half.
            processor: Any = made[0] if isinstance(made, tuple) else made
            processor.video_half = processor_dict.get(VIDEO_HALF)
            return made

    ImageHalf.__name__ = ImageHalf.__qualname__ = kind.__name__
    return ImageHalf


def save_processor(processor: Any, folder: Path) -> None:
    """Save a processor so that stock transformers with torchvision loads it too, video half included."""
    processor.save_pretrained(folder)
    if isinstance(processor, ImageOnlyProcessor):
        _add_video_half(folder / PROCESSOR_CONFIG)
    elif half := getattr(processor, "video_half", None):
        config = json.loads((folder / PROCESSOR_CONFIG).read_text(encoding="utf-8"))
        config.pop("video_half", None)
        save_json(folder / PROCESSOR_CONFIG, config | {VIDEO_HALF: half})


def _add_video_half(file: Path) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    image = config["image_processor"]
    shared = ("size", "patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "resample", "do_resize",
              "do_rescale", "do_normalize", "do_convert_rgb", "rescale_factor")  # fmt: skip
    config["processor_class"] = "Qwen2_5_VLProcessor"
    config["video_processor"] = {
        "video_processor_type": "Qwen2VLVideoProcessor",
        **{name: image[name] for name in shared if name in image},
    }
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
