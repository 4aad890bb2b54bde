"""Names of files: each stands here, or among those by which a folder is known as ours, and nowhere else."""

from gtrturbo.config.marks import DRAFT_MARK as DRAFT_MARK
from gtrturbo.config.marks import MANIFEST as MANIFEST

TIMING = "timing.json"
MOVED = "moved.json"
PRUNED = "pruned.json"
# What running sums of a merge say of themselves.
STATE = "state.json"
TURNS = "turns.jsonl"
# Of turns of gym:ID, its file of settings, if it had one.
ENVIRONMENT = "environment.yaml"
TOKENS = "tokens.safetensors"
SCORES = "scores.safetensors"
TEACHER = "teacher.json"
# Of a run: the calls to a teacher's server that were paid for.
LEDGER = "teacher-calls.jsonl"
DEMOS = "demos.jsonl"
METRICS = "metrics.json"
METRICS_LOG = "metrics.jsonl"
# With what the names of an optimiser's files begin, and the one that is written today.
OPTIMIZER = "optimizer"
OPTIMIZER_FILE = f"{OPTIMIZER}.safetensors"
VALUE_HEAD = "value_head.safetensors"
# Those of Hugging Face and PEFT.
MODEL_CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
LEGACY_TEMPLATE = "chat_template.json"
# Other templates of a model, each by the name of its file; the one above is the default.
MORE_TEMPLATES = "additional_chat_templates"
PROCESSOR_CONFIG, IMAGE_CONFIG, VIDEO_CONFIG = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
FAMILY = "family.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = f"{MODEL_WEIGHTS}.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Under an adapter, in its folder: the base that was made with it.
BASE_FOLDER = "base"
# Beside weights that are quantised by AutoGPTQ, AutoAWQ, ModelOpt and others, which say it in a file of its own.
QUANTISATION_CONFIGS = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
# What decides how a prompt becomes token ids and pixels: tokenizer, processor, chat template.
RENDERER_FILES = (
    TOKENIZER, TOKENIZER_CONFIG, "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", CHAT_TEMPLATE, LEGACY_TEMPLATE, PROCESSOR_CONFIG, IMAGE_CONFIG, VIDEO_CONFIG, FAMILY,
)  # fmt: skip
GENERATION_CONFIG = "generation_config.json"
CARD = "README.md"
# Of the Hugging Face cache: where the revisions of a model lie, as links to the blobs beside it.
SNAPSHOTS = "snapshots"
