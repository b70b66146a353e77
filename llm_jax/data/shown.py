"""A batch for human eyes: its text with marks, documents and hidden tokens, and a picture of it."""

import itertools

import numpy as np

_DOCUMENTS = np.array(["8fb8de", "f2c48d", "a8d5a2", "d7b5d8", "f0b7b7", "b9c4cf"])
_HIDDEN, _PADDING = "c8371f", "ffffff"


def lines(batch: dict[str, np.ndarray], tokenizer) -> list[str]:
    """Returns a batch as lines of text, with marks as ⟨name⟩ and hidden tokens as {seen→asked}.

    Args:
      batch: of `llm_jax.data.batches`.
      tokenizer: of `llm_jax.data.load_tokenizer`; of no use to images.
    """
    if "pixels" in batch:
        labels = zip(map(_label, batch["labels"]), batch["weights"].tolist())
        return [f"row {row}: label {label}, weight {weight:g}"
                for row, (label, weight) in enumerate(labels)]  # fmt: skip
    named = {number: name.strip("<>[]") for name, number in tokenizer.symbols.items()}
    ids = tokenizer.marks
    named |= dict(zip(ids, ("bos", "eos") if ids[0] != ids[1] else ("end", "end")))
    said = []
    for row in range(len(batch["weights"])):
        one = {name: values[row] for name, values in batch.items()}
        asked = f"{np.count_nonzero(one['weights'])} asked for"
        if "source" in one:
            said.append(f"row {row}: {one['source_mask'].sum()} tokens to read, {asked}")
            said.append(
                "  reads  " + _spelled(one["source"][one["source_mask"] > 0], tokenizer, named)
            )
            said.append(
                "  writes " + _spelled(one["targets"][one["weights"] > 0], tokenizer, named)
            )
            continue
        segments = _segments(one)
        if "labels" in one:
            asked = f"label {_label(one['labels'])}"
        said.append(f"row {row}: {np.count_nonzero(segments)} tokens, {asked}")
        for segment in range(1, segments.max(initial=0) + 1):
            text = _of_document(one, segments == segment, tokenizer, named)
            said.append(f"{segment:>5}  " + text.replace("\n", "\n       "))
    return said


def _segments(one: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a row's segment ids [T]; a row without any is one document up to its padding."""
    for name in ("segment_ids", "mask"):
        if name in one:
            return one[name]
    asked = np.flatnonzero(one["weights"])
    return (np.arange(len(one["tokens"])) <= asked.max(initial=-1)).astype(np.int32)


def _of_document(one, mine: np.ndarray, tokenizer, named: dict[int, str]) -> str:
    """Returns the text of the tokens `mine` (bool [T]) of a row."""
    asked = {}
    if "picked" in one:
        real = one["weights"] > 0
        asked = dict(zip(one["picked"][real].tolist(), one["targets"][real].tolist()))
    places = np.flatnonzero(mine).tolist()
    parts = []
    for hidden, run in itertools.groupby(places, asked.__contains__):
        for group in [[place] for place in run] if hidden else [list(run)]:
            text = _spelled(one["tokens"][group], tokenizer, named)
            if hidden:
                text = f"{{{text}→{_spelled([asked[group[0]]], tokenizer, named)}}}"
            parts.append(text)
    return "".join(parts)


def _spelled(ids, tokenizer, named: dict[int, str]) -> str:
    """Returns the text of `ids`, special ones by their names."""
    parts = []
    for special, run in itertools.groupby(map(int, ids), named.__contains__):
        run = list(run)
        parts.append("".join(f"⟨{named[i]}⟩" for i in run) if special else tokenizer.decode(run))
    return "".join(parts)


def draw(batch: dict[str, np.ndarray], path: str, *, causal: bool, title: str) -> None:
    """Writes a PNG of a batch: images, or documents, padding and hidden tokens, and who sees whom.

    Args:
      batch: of `llm_jax.data.batches`.
      path: of the file.
      causal: whether a token of the model sees only those before it.
      title: above the picture.

    Raises:
      OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if "pixels" in batch:
        figure = _images(plt, batch)
    elif "source" in batch:
        figure, axes = plt.subplots(1, 2, figsize=(10, 4))
        for panel, name, known in zip(axes, ("source", "targets"), ("source_mask", "weights")):
            _strip(panel, _colours((batch[known] > 0).astype(np.int32)), name)
    else:
        figure = _rows(plt, batch, causal)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110, format="png")
    finally:
        plt.close(figure)


def _rows(plt, batch: dict[str, np.ndarray], causal: bool):
    """Returns a figure of the rows and of the first one's attention mask."""
    segments = np.stack([_segments(dict(zip(batch, row))) for row in zip(*batch.values())])
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(3, 2))
    picture = _colours(segments)
    if "picked" in batch:
        row, place = np.nonzero(batch["weights"] > 0)
        picture[row, batch["picked"][row, place]] = _rgb(_HIDDEN)
        _strip(left, picture, "documents; red: hidden")
    elif "labels" in batch:
        _strip(left, picture, "texts; white: padding")
    else:
        picture[(segments > 0) & (batch["weights"] == 0)] *= 0.5
        _strip(left, picture, "documents; dark: no loss")
    seen = (segments[0][:, None] == segments[0]) & (segments[0] > 0)
    seen = np.tril(seen) if causal else seen
    right.imshow(seen, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    right.set(title="row 0: who sees whom", xlabel="seen token", ylabel="token")
    return figure


def _strip(panel, picture: np.ndarray, title: str) -> None:
    panel.imshow(picture, aspect="auto", interpolation="nearest")
    panel.set(title=title, xlabel="token", ylabel="row of the batch")


def _images(plt, batch: dict[str, np.ndarray]):
    """Returns a figure of at most 64 images with their labels, masked patches in red."""
    pixels = batch["pixels"][:64].transpose(0, 2, 3, 1)
    low, high = pixels.min(), pixels.max()
    pixels = np.broadcast_to((pixels - low) / max(high - low, 1e-9), (*pixels.shape[:3], 3)).copy()
    if "masked" in batch:
        (height, width), patches = pixels.shape[1:3], batch["masked"].shape[1]
        size = round((height * width / patches) ** 0.5)
        masked = batch["masked"][:64].reshape(len(pixels), height // size, width // size)
        masked = masked.repeat(size, 1).repeat(size, 2)
        pixels[masked] = 0.6 * pixels[masked] + 0.4 * _rgb(_HIDDEN)
    side = int(np.ceil(len(pixels) ** 0.5))
    figure, axes = plt.subplots(side, side, figsize=(side, 1.15 * side), squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, image, label in zip(axes.flat, pixels, batch["labels"]):
        panel.imshow(image, interpolation="nearest")
        panel.set_title(_label(label), fontsize=8, pad=2)
    return figure


def _label(label: np.ndarray) -> str:
    """Returns a class, a number, or classes that are mixed with their shares."""
    if not label.ndim:
        return f"{label:g}"
    return ", ".join(
        f"{label[of]:.0%} {of}" for of in np.argsort(-label, kind="stable") if label[of]
    )


def _colours(segments: np.ndarray) -> np.ndarray:
    """Returns RGB [B, T, 3]: documents in turning colours, padding white."""
    table = np.stack([_rgb(colour) for colour in (_PADDING, *_DOCUMENTS)])
    return table[np.where(segments > 0, 1 + (segments - 1) % len(_DOCUMENTS), 0)]


def _rgb(colour: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(colour), np.uint8) / 255
