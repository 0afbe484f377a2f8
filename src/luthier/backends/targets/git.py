"""A git repository in serverless-llm's layout: as the folder, then a commit, and a push where that is wanted.

Nothing of the repository is run: its hooks are off, and git may not ask anybody. A repository with changes that were not
committed is left alone, and one in which anything fails is put back to the commit that it was at.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from luthier.backends.targets.folder import CONFIG, MODELS, put
from luthier.seams import Deployable, Done, NotDeployed

_LOCAL_S, _PUSH_S = 120, 300
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "core.fsmonitor=false", "-c", "gc.auto=0")
_AUTHOR = ("-c", "user.name=Luthier", "-c", "user.email=luthier@localhost")


class GitTarget:
    """Implements `seams.DeployTarget`. `environment` is all that git inherits: where it finds keys to push with."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, push: bool = False) -> None:
        self._folder = folder
        self._environment = {**environment, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        self._push = push
        self._lock = threading.Lock()

    def deploy(self, model: Deployable) -> Done:
        """See `seams.DeployTarget`."""
        with self._lock:
            before = self._clean_head()
            try:
                done = put(self._folder, model)
                commit, pushed = self._committed(model, done.path, before)
            except BaseException:  # also an interrupt: a half-made commit is nobody's
                self._back_to(before, model)
                raise
            return Done(done.path, commit, pushed)

    def _clean_head(self) -> str:
        if not self._folder.is_dir():
            raise NotDeployed("its repository is missing")
        try:
            top = self._git("rev-parse", "--show-toplevel").strip()
            head = self._git("rev-parse", "--verify", "HEAD").strip()
        except NotDeployed:
            raise NotDeployed("its folder is no git repository with a commit") from None
        if Path(top).resolve() != self._folder.resolve():
            raise NotDeployed("its folder lies within a repository and is none itself")
        # Also what git does not know yet, where we would write: a commit of ours must hold nothing of somebody else's.
        if self._git("status", "--porcelain", "--untracked-files=no") or self._git(
            "status", "--porcelain", "--", MODELS, "config"
        ):
            raise NotDeployed("its repository has changes that were not committed")
        return head

    def _committed(self, model: Deployable, path: str, before: str) -> tuple[str, bool]:
        self._git("add", "--", path, CONFIG)
        if not self._git("diff", "--cached", "--name-only"):
            return before, False
        subject = f"Add fine-tuned model: {model.name}"
        facts = "\n".join(f"{name}: {value}" for name, value in model.about.items())
        self._git(*_AUTHOR, "commit", "--quiet", "--message", subject, "--message", facts)
        commit = self._git("rev-parse", "HEAD").strip()
        if self._push:
            self._git("push", "--quiet", timeout_s=_PUSH_S)
        return commit, self._push

    def _back_to(self, head: str, model: Deployable) -> None:
        # The tree was clean, so there is nothing to lose but what we wrote.
        self._git("reset", "--quiet", "--hard", head)
        self._git("clean", "--quiet", "--force", "--", f"{MODELS}/{model.file_name}", CONFIG)

    def _git(self, *words: str, timeout_s: float = _LOCAL_S) -> str:
        """What git says. Raises: NotDeployed; what git complains about is not repeated: addresses with keys may stand in it."""
        command = ["git", "-C", str(self._folder), *_QUIET, *words]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotDeployed(f"`git {_verb(words)}` took longer than {timeout_s:g} s") from None
        except OSError as error:
            raise NotDeployed(f"git cannot be run on the server ({error.strerror})") from None
        if done.returncode != 0:
            raise NotDeployed(f"`git {_verb(words)}` ended with status {done.returncode}")
        return done.stdout


def _verb(words: tuple[str, ...]) -> str:
    rest = words[len(_AUTHOR) :] if words[:1] == ("-c",) else words
    return rest[0]
