"""Files of scikit-learn models: skops, read only after every node in them was looked at.

skops itself trusts all of scikit-learn, and knows that a tree's nodes are used without a look at their bounds. So before it may
build anything: each type in the file is one that the registry's entry lists, and trees stay in their bounds.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from luthier.modeling.classifiers.extra import needs_sklearn
from luthier.modeling.classifiers.types import Estimator

_PLAIN: Mapping[str, frozenset[str]] = {
    "builtins.dict": frozenset({"DictNode"}),
    "builtins.list": frozenset({"ListNode"}),
    "builtins.tuple": frozenset({"TupleNode"}),
    "builtins.str": frozenset({"JsonNode", "TypeNode"}),
    "numpy.ndarray": frozenset({"NdArrayNode"}),
    "numpy.int64": frozenset({"NdArrayNode", "TypeNode"}),
    "numpy.float64": frozenset({"NdArrayNode", "TypeNode"}),
    "numpy.float32": frozenset({"NdArrayNode", "TypeNode"}),
}
_TREE = "sklearn.tree._tree.Tree"
_MOST_BYTES = 4 * 1024**3
_MOST_SCHEMA_BYTES = 512 * 1024**2
_MOST_FILES = 200_000
_LEAF = -1


class Untrusted(Exception):
    """The file holds something that a model of its kind does not."""


def dump(estimator: Estimator, path: Path) -> None:
    """Raises: BaseUnavailable."""
    needs_sklearn()
    from skops.io import dump as skops_dump

    skops_dump(estimator, path)


def load(path: Path, trusted: frozenset[str]) -> Any:
    """The object in the file, of these types only. Raises: Untrusted, BaseUnavailable, and what scikit-learn raises."""
    needs_sklearn()
    from skops.io import load as skops_load

    check(path, trusted)
    estimator = skops_load(path, trusted=sorted(trusted))
    _check_forest(estimator)
    return estimator


def check(path: Path, trusted: frozenset[str]) -> None:
    """Look at the file without building anything of it. Raises: Untrusted."""
    try:
        with zipfile.ZipFile(path) as file:
            _check_sizes(file)
            schema: Any = json.loads(file.read("schema.json"))
            nodes = list(_nodes(schema))
            _check_types(nodes, trusted)
            trees = [node for node in nodes if _type_of(node) == _TREE]
            _check_ids(nodes, trees)
            for tree in trees:
                _check_tree(file, tree)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, IndexError, RecursionError, EOFError):
        raise Untrusted("it is no skops file, or a broken one") from None


def _check_sizes(file: zipfile.ZipFile) -> None:
    files = file.infolist()
    if len(files) > _MOST_FILES or sum(each.file_size for each in files) > _MOST_BYTES:
        raise Untrusted("it unpacks to more than a model has")
    if file.getinfo("schema.json").file_size > _MOST_SCHEMA_BYTES:
        raise Untrusted("it lists more than a model has")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in the schema that skops would take for a node, wherever they stand."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            fields = cast("dict[str, Any]", item)
            if "__loader__" in fields or "__class__" in fields:
                yield fields
            waiting.extend(fields.values())
        elif isinstance(item, list):
            waiting.extend(cast("list[Any]", item))


def _check_types(nodes: Sequence[Mapping[str, Any]], trusted: frozenset[str]) -> None:
    for node in nodes:
        name = _type_of(node)
        loaders = _PLAIN.get(name) or frozenset({"TreeNode" if name == _TREE else "ObjectNode"} if name in trusted else ())
        if node.get("__loader__") not in loaders:
            raise Untrusted("a type in it is not one that this model consists of")


def _check_ids(nodes: Sequence[Mapping[str, Any]], trees: Sequence[Mapping[str, Any]]) -> None:
    """skops gives the first object of an id wherever that id stands again: what is looked at in a tree must be what is used."""
    inside = {part["__id__"]: part for tree in trees for part in _nodes(tree) if "__id__" in part}
    if any(inside.get(node.get("__id__"), node) != node for node in nodes):
        raise Untrusted("two different objects in it have one id")


def _type_of(node: Mapping[str, Any]) -> str:
    return f"{node.get('__module__')}.{node.get('__class__')}"


def _check_tree(file: zipfile.ZipFile, node: Mapping[str, Any]) -> None:
    """Children lie behind their parent and in the array, features are among those there are. scikit-learn looks at neither."""
    features, n_classes, outputs = node["__reduce__"]["args"]["content"]
    state = node["content"]["content"]
    n_features, n_outputs, count = json.loads(features["content"]), json.loads(outputs["content"]), state["node_count"]["content"]
    nodes, values, classes = (_array(file, each) for each in (state["nodes"], state["values"], n_classes))
    length = len(nodes)
    at, left, right, feature = np.arange(length), nodes["left_child"], nodes["right_child"], nodes["feature"]
    leaf = (left == _LEAF) & (right == _LEAF)
    inner = (left > at) & (right > at) & (left < length) & (right < length) & (feature >= 0) & (feature < n_features)
    whole = length > 0 and json.loads(count) == length and bool((leaf | inner).all())
    if not (whole and n_outputs == 1 and classes.shape == (1,) and values.shape == (length, 1, int(classes[0]))):
        raise Untrusted("a tree in it points out of its bounds")


def _array(file: zipfile.ZipFile, node: Mapping[str, Any]) -> NDArray[Any]:
    if node.get("type") != "numpy":
        raise Untrusted("a tree in it is not made of numbers")
    return np.load(io.BytesIO(file.read(node["file"])), allow_pickle=False)


def _check_forest(estimator: Any) -> None:
    """A forest looks at the width of what it is asked; its trees trust it. Raises: Untrusted."""
    model = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    for tree in getattr(model, "estimators_", ()):
        if tree.tree_.n_features != model.n_features_in_:
            raise Untrusted("a tree in it is made for wider images than the forest")
