"""Load a model's processor, with or without torchvision, and never a bare tokenizer by accident.

Stock `AutoProcessor` needs torchvision for every Qwen-VL model, for the video half alone, and a custom class that is not
registered comes back silently as a tokenizer. So without torchvision the image-only processor below takes its place.
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, ProcessorMixin, Qwen2_5_VLProcessor
from transformers.utils.import_utils import is_torchvision_available

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.descriptions import OF_PROMPTS, require_readable
from gtrturbo.models.families import Family
from gtrturbo.store.names import TOKENIZER_CONFIG


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
        GtrTurboError: a file of it is damaged, or the model has no processor that takes images and text, or no end of a turn.
    """
    if Path(source).is_dir():
        require_readable(Path(source), OF_PROMPTS)
    loader = AutoProcessor if is_torchvision_available() or not family.image_only else ImageOnlyProcessor
    processor = loader.from_pretrained(source, **where)
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


def save_processor(processor: Any, folder: Path) -> None:
    """Save a processor so that stock transformers with torchvision loads it too, video half included."""
    processor.save_pretrained(folder)
    if isinstance(processor, ImageOnlyProcessor):
        _add_video_half(folder / "processor_config.json")


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
