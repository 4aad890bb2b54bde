"""A hub that is sent checkpoints, and an evaluation of one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import RepositoryNotFoundError

from gtrturbo.config import EvalConfig
from gtrturbo.stages import execute


@pytest.fixture(scope="module")
def evaluation(root, ppo) -> Path:
    return execute(
        EvalConfig(
            out=root / "pushed_eval", checkpoint=ppo, task="numberline", env=("image=tiny",), episodes=4, max_new_tokens=48
        )
    ).out


@pytest.fixture
def hub(monkeypatch):
    """A hub that keeps what it is sent: the client is the real one, and its requests are answered here.

    `files` are in its repository `me/lake`, and None where there is none.
    """
    kept = SimpleNamespace(repository=None, private=None, asked=None, files=None, commits=0)

    class Hub(huggingface_hub.HfApi):
        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            assert exist_ok
            kept.repository, kept.asked = repo_id, private
            if kept.files is None:
                kept.files, kept.private = {".gitattributes": b""}, bool(private)
            return f"https://hub/{repo_id}"

        def repo_info(self, repo_id):
            self._require(repo_id)
            return SimpleNamespace(private=kept.private)

        def list_repo_files(self, repo_id):
            self._require(repo_id)
            return list(kept.files)

        def create_commit(self, repo_id, operations, *, commit_message):
            self._require(repo_id)
            assert commit_message.startswith("gtrturbo ")
            for each in operations:
                if isinstance(each, CommitOperationDelete):
                    del kept.files[each.path_in_repo]
            for each in operations:
                if isinstance(each, CommitOperationAdd):
                    with each.as_file() as file:
                        kept.files[each.path_in_repo] = file.read()
            kept.commits += 1

        def _require(self, repo_id):
            if kept.files is None:
                answer: Any = SimpleNamespace(headers={}, request=None)
                raise RepositoryNotFoundError("no such repository", response=answer)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr("gtrturbo.report.hub.is_hub_reached", lambda: True)
    return kept
