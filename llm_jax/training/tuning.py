"""Tuning: which parameters of a run train, and what is added to its model for that."""

import dataclasses
import re

import jax
import jax.numpy as jnp

from llm_jax import optim, peft
from llm_jax.configuration import ConfigError, nearest
from llm_jax.kernels import packed
from llm_jax.losses.language_model import BALANCED
from llm_jax.models import Model
from llm_jax.models.heads import Head
from llm_jax.optim import OptimConfig
from llm_jax.peft import IA3, Bottleneck, Lora, Prefix, Prompt, PTuning

# The methods, and the usual learning rate of each with AdamW. The first three train parameters of
# the model's own, the others what they add to it.
METHODS = {
    "full": 5e-5, "bitfit": 1e-3, "head": 1e-2, "lora": 1e-3, "rslora": 1e-3, "dora": 1e-3,
    "lora_plus": 3e-4, "ia3": 1e-2, "adapter": 1e-3, "prefix": 1e-2, "prompt": 3e-2,
    "ptuning": 1e-3,
}  # fmt: skip
_HEADS = ("task_head", "head", "distillation_head")


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """The settings of `config.method`, which names what trains.

    "full" trains everything; "bitfit" the biases (Ben Zaken et al. 2021, arXiv:2106.10199); "head"
    none but the head; the others what they add to a model that stays as it is. A head trains
    whatever the method is. Several methods may be combined, with commas between their names. Where
    `optim.learning_rate` is 0 it is the usual one of the methods, the smallest of several.

    Attributes:
      head: of objectives that read one.
      lora: of "lora"; also of "rslora", "dora" and "lora_plus", which switch their own part on.
      lora_plus_ratio: the rate of B over that of A (Hayou et al. 2024, arXiv:2402.12354).
      ia3, adapter, prefix, prompt, ptuning: of the methods of these names; P-tuning v2 is "prefix".
      freeze: patterns of whole paths, such as "embedding/.*": parameters that stay as they are.
      freeze_layers: so many of the first layers stay as they are, and what is below them.
      unfreeze_every: steps after which one layer more trains, the last one first; at the beginning
        the head and what is above the layers (Howard & Ruder 2018, arXiv:1801.06146). 0: off.
      base: how what does not train is kept: "fp32", or the layers' matrices in blocks of few bits,
        "nf4" (QLoRA) or "int8", and all other matrices in bf16.
      new_layers: so many of the last layers begin anew (Zhang et al. 2020, arXiv:2006.05987).
    """

    head: Head = Head()
    lora: Lora = Lora()
    lora_plus_ratio: float = 16.0
    ia3: IA3 = IA3()
    adapter: Bottleneck = Bottleneck()
    prefix: Prefix = Prefix()
    prompt: Prompt = Prompt()
    ptuning: PTuning = PTuning()
    freeze: tuple = ()
    freeze_layers: int = 0
    unfreeze_every: int = 0
    base: str = "fp32"
    new_layers: int = 0

    def __post_init__(self):
        for name in ("freeze_layers", "unfreeze_every", "new_layers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"tuning.{name} is {getattr(self, name)}: give 0 or more")
        if self.base not in (known := ("fp32", *packed.KINDS)):
            raise ConfigError(f"tuning.base is {self.base!r}: choose one of {', '.join(known)}")
        if self.lora_plus_ratio <= 0:
            raise ConfigError(f"tuning.lora_plus_ratio is {self.lora_plus_ratio}: give more than 0")
        for pattern in self.freeze:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ConfigError(f"tuning.freeze has {pattern!r}, no pattern: {error}") from None


def names_of(method: str) -> list[str]:
    """Returns the names in `method`; `ConfigError` where one is unknown, or "full" is not alone."""
    names = [name.strip() for name in method.split(",")]
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"config.method has {name!r}: {nearest(name, METHODS)}")
    if "full" in names and len(names) > 1:
        raise ConfigError(f"config.method is {method!r}: full trains everything, give it alone")
    return names


def freezes(run) -> bool:
    """Says whether some parameters of `run`, a `RunConfig`, never train."""
    tuning = run.tuning
    return bool(run.method != "full" or tuning.freeze or tuning.freeze_layers)


def methods_of(method: str, tuning: TuningConfig) -> tuple:
    """Returns what `method` adds to a model, of `llm_jax.peft`."""
    names, found = names_of(method), []
    if any("lora" in name or name == "dora" for name in names):
        stabilized = "rslora" in names or tuning.lora.rank_stabilized
        magnitudes = "dora" in names or tuning.lora.magnitudes
        found.append(
            dataclasses.replace(tuning.lora, rank_stabilized=stabilized, magnitudes=magnitudes)
        )
    own = ("ia3", "adapter", "prefix", "prompt", "ptuning")
    return (*found, *(getattr(tuning, name) for name in own if name in names))


def applied(model: Model, run) -> Model:
    """Returns `model` with what the methods of `run`, a `RunConfig`, add, and its head.

    Where words are tagged, the head reads each of them, whatever its pooling is.

    Raises:
      ConfigError: a head without outputs, or a method that names no layer.
    """
    head = run.tuning.head if run.objective.kind == "labelled" else None
    if head is not None and not head.outputs:
        raise ConfigError(
            "tuning.head.outputs is 0: python -m experiments.finetune takes it from the data; give "
            "it to other programs"
        )
    if head is not None and run.objective.target == "tags":
        head = dataclasses.replace(head, pooling="none")
    few_bits = run.tuning.base in packed.KINDS
    model = dataclasses.replace(model, head=head, packed=few_bits)
    methods = methods_of(run.method, run.tuning)
    return peft.adapted(model, methods) if methods else model


@dataclasses.dataclass(frozen=True)
class Freezing:
    """Which parameters train; `split` and `join` are each other's inverse.

    Attributes:
      trained: paths of the parameters of which all or some layers train.
      layers: so many of the first layers stay as they are ...
      stacked: ... of the parameters of these paths.
      base: of `TuningConfig`.
    """

    trained: frozenset[str]
    layers: int
    stacked: frozenset[str]
    base: str = "fp32"

    def split(self, params):
        """Returns what trains, and what does not or None: nested dicts without empty ones."""
        trained, frozen = self._split(params, self.layers)
        return trained, frozen and self._kept(frozen)

    def split_axes(self, axes, shapes):
        """Returns the same of axes' names, tuples, for the arrays of `shapes`."""
        trained, frozen = self._split(axes, 0)
        if frozen is None or self.base == "fp32":
            return trained, frozen
        flat = dict(leaves(frozen))

        def named(path, leaf):
            if not isinstance(leaf, packed.Packed):
                return flat[path]
            # The numbers of a layer lie in a row, which may be divided anywhere.
            return dataclasses.replace(leaf, codes=("layers", "embed"), scales=("layers", None))

        kept = jax.eval_shape(self.split, shapes)[1]
        return trained, _chosen(kept, dict(leaves(kept)), named)

    def _kept(self, frozen):
        """Returns what does not train as `base` says."""
        if self.base == "fp32":
            return frozen

        def kept(path, leaf):
            own = path.split("/")
            matrix = leaf.ndim - ("layers" in own) >= 2
            if own[-1] == "kernel" and "layers" in own and not leaf[0].size % packed.BLOCK:
                return packed.pack(leaf, self.base, lead=1)
            return leaf.astype(jnp.bfloat16) if matrix else leaf

        return _chosen(frozen, dict(leaves(frozen)), kept)

    def _split(self, tree, cut: int):
        def part(path, leaf, first):
            if not cut or path not in self.stacked:
                return leaf
            return leaf[:cut] if first else leaf[cut:]

        frozen = {path for path, _ in leaves(tree)} - self.trained | self.stacked
        trained = _chosen(tree, self.trained, lambda path, leaf: part(path, leaf, False))
        return trained, _chosen(tree, frozen, lambda path, leaf: part(path, leaf, True)) or None

    def join(self, trained, frozen):
        """Returns the whole tree."""
        if frozen is None:
            return trained
        whole = {key: frozen[key] for key in frozen.keys() - trained.keys()}
        for key, value in trained.items():
            if key not in frozen:
                whole[key] = value
            elif isinstance(value, dict):
                whole[key] = self.join(value, frozen[key])
            else:
                whole[key] = jnp.concatenate([frozen[key], value])
        return whole


def leaves(tree, path: str = ""):
    """Yields (path, leaf) of nested dicts, a path's parts with "/" between."""
    for key, value in tree.items():
        inner = f"{path}/{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, inner)
        else:
            yield inner, value


def _chosen(tree, paths, taken, path: str = ""):
    found = {}
    for key, value in tree.items():
        inner = f"{path}/{key}" if path else key
        if isinstance(value, dict):
            if part := _chosen(value, paths, taken, inner):
                found[key] = part
        elif inner in paths:
            found[key] = taken(inner, value)
    return found


def freezing(model: Model, run) -> Freezing:
    """Returns what trains in `run`, a `RunConfig`, of a `model` of `applied`.

    Raises:
      ConfigError: a pattern that no parameter matches, nothing left to train, or more frozen layers
        than there are.
    """
    tuning, names = run.tuning, names_of(run.method)
    axes = dict(leaves(model.logical_axes))
    whole = "full" in names
    trained = {
        path
        for path in axes
        if path.split("/")[0] in ("adapters", *_HEADS)
        or whole
        or ("bitfit" in names and path.endswith("/bias"))
    }
    for pattern in tuning.freeze:
        found = {path for path in axes if re.fullmatch(pattern, path)}
        if not found:
            raise ConfigError(
                f"tuning.freeze has {pattern!r}, which no parameter matches: "
                f"{nearest(pattern, axes)}"
            )
        trained -= found
    stacked = {path for path in trained if axes[path] and axes[path][0] == "layers"}
    stacked = {path for path in stacked if not path.startswith("adapters/")}
    if tuning.freeze_layers:
        depths = {leaf.shape[0] for path, leaf in leaves(model.abstract_params) if path in stacked}
        depth = min(depths, default=0)
        if tuning.freeze_layers > depth:
            raise ConfigError(
                f"tuning.freeze_layers is {tuning.freeze_layers}, and {depth} layers train: give "
                "less, or freeze them by tuning.freeze"
            )
        trained -= {path for path in trained if re.fullmatch(run.optim.layer_decay_bottom, path)}
        if tuning.freeze_layers == depth:
            trained, stacked = trained - stacked, set()
    else:
        stacked = set()
    if not trained:
        raise ConfigError(
            f"nothing trains: config.method is {run.method!r} and tuning.freeze {tuning.freeze!r}"
        )
    if tuning.base in packed.KINDS and stacked:
        raise ConfigError(
            f"tuning.base is {tuning.base!r} and tuning.freeze_layers {tuning.freeze_layers}: "
            "layers that share a stack with trained ones stay fp32"
        )
    return Freezing(frozenset(trained), tuning.freeze_layers, frozenset(stacked), tuning.base)


def rated(run) -> OptimConfig:
    """Returns `run.optim` with the methods' usual rate where it gives none, and their tables.

    Raises:
      ConfigError: LoRA+ beside a table of rates.
    """
    names, config = names_of(run.method), run.optim
    if not config.learning_rate and (run.objective.kind == "labelled" or names != ["full"]):
        config = dataclasses.replace(config, learning_rate=min(METHODS[name] for name in names))
    if "lora_plus" not in names:
        return config
    if config.learning_rate_table:
        raise ConfigError(
            "config.method has lora_plus and optim.learning_rate_table is set, where its rates "
            "would stand: give .*/lora_b its own rate there, and lora"
        )
    table = ((".*/lora_b", run.tuning.lora_plus_ratio), (".*", 1.0))
    return dataclasses.replace(config, learning_rate_table=table)


def optimizer(run, shapes, axes):
    """Returns the optimizer of `run` for the parameters that train."""
    config, every = rated(run), run.tuning.unfreeze_every
    found = optim.build(config, shapes, run.steps, axes)
    if not every:
        return found
    return optim.gradually(found, every, shapes, axes, config.layer_decay_bottom)


def beginning(model: Model, key, base=None, *, new_layers: int = 0):
    """Returns all parameters at step 0.

    Args:
      model: of `applied`.
      key: for what begins by chance.
      base: of the family's own parameters; None: by chance.
      new_layers: of the layers of `base`, so many of the last ones begin by chance too.

    Raises:
      ConfigError: more new layers than there are.
    """
    if base is None:
        return model.init(key)
    grown = model.grown(base, key)
    if not new_layers:
        return grown
    fresh, axes = dict(leaves(model.init(key))), dict(leaves(model.logical_axes))

    def renewed(path, leaf):
        if path.startswith("adapters/") or not axes[path] or axes[path][0] != "layers":
            return leaf
        if new_layers > leaf.shape[0]:
            raise ConfigError(f"tuning.new_layers is {new_layers} of {leaf.shape[0]} layers")
        return jnp.concatenate([leaf[:-new_layers], fresh[path][-new_layers:]])

    return _chosen(grown, axes, renewed)


def merged(params, run):
    """Returns the family's own parameters, float32, with the adapters of `run` in them.

    Raises:
      ConfigError: methods that no weights can stand for.
    """
    own = {key: value for key, value in params.items() if key not in ("adapters", "task_head")}
    own = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), packed.unpacked(own))
    if "adapters" not in params:
        return own
    return peft.merge(own, params["adapters"], methods_of(run.method, run.tuning))


def completed(run, manifest):
    """Returns `run` with what its prepared data say: outputs of its head, balance of its classes.

    Raises:
      ConfigError: the head has another number, or a class to be balanced is empty.
    """
    if not manifest.labels:
        return run
    wanted, head = max(len(manifest.labels["names"]), 1), run.tuning.head
    if head.outputs not in (0, wanted):
        raise ConfigError(
            f"tuning.head.outputs is {head.outputs} and the data have {wanted} classes: leave it 0"
        )
    head = dataclasses.replace(head, outputs=wanted)
    loss = run.loss
    if loss.class_weights == BALANCED and manifest.labels["names"]:
        loss = dataclasses.replace(loss, class_weights=_balanced(manifest.labels))
    return dataclasses.replace(run, tuning=dataclasses.replace(run.tuning, head=head), loss=loss)


def _balanced(labels) -> str:
    """Returns examples / (classes * those of the class) of the train split, commas between."""
    counts = labels.get("members", {}).get("train")
    if not counts or not all(counts):
        empty = f"class {labels['names'][counts.index(0)]!r} is empty" if counts else "no counts"
        raise ConfigError(
            f"loss.class_weights is 'balanced' and the prepared data have {empty}: give a number "
            "for each class with commas between, or have the data prepared in another --workdir"
        )
    return ",".join(repr(sum(counts) / (len(counts) * count)) for count in counts)
