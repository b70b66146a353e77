"""What the families' Configs refuse alike; each function raises ConfigError in one line."""

from llm_jax.configuration import ConfigError


def check_sizes(config, names: tuple[str, ...]) -> None:
    """Refuses sizes of `names` below 1 (None is no size), and dropout rates that are none."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"model.{name} is {value}: give at least 1")
    for name in ("dropout_rate", "attention_dropout_rate"):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"model.{name} is {getattr(config, name)}: give 0 <= rate < 1")


def check_choice(config, name: str, known: tuple, path: str = "model") -> None:
    """Refuses a `config.name`, of `path`, that is none of `known`."""
    if getattr(config, name) not in known:
        choices = ", ".join(map(str, known))
        raise ConfigError(f"{path}.{name} is {getattr(config, name)!r}: choose one of {choices}")


def check_heads(config) -> None:
    """Refuses a width that does not divide into heads, and heads that share no key-value heads."""
    if getattr(config, "head_dim", None) is None and config.hidden_size % config.num_heads:
        instead = ", or set model.head_dim" if hasattr(config, "head_dim") else ""
        raise ConfigError(
            f"model.hidden_size {config.hidden_size} does not divide into model.num_heads "
            f"{config.num_heads}: change one{instead}"
        )
    if config.num_heads % config.kv_heads:
        raise ConfigError(
            f"model.num_heads {config.num_heads} is no multiple of model.num_kv_heads "
            f"{config.kv_heads}: change one"
        )


def check_first_tokens(config, count: int, path: str = "model") -> None:
    """Refuses a window or pattern at `path` that hides a part of an image from its first tokens."""
    pattern = config.attention_pattern
    if count and config.window is not None:
        raise ConfigError(
            f"{path}.window is {config.window}, but an image is read at its first {count} token(s),"
            f" which must see all of it: choose {path}.attention_pattern.kind 'block_sparse'"
        )
    blocks = -(-count // pattern.block_size)
    if pattern.block_sparse and pattern.global_blocks < blocks:
        raise ConfigError(
            f"{path}.attention_pattern.global_blocks is {pattern.global_blocks}, but an image is "
            f"read at its first {count} token(s), which must see all of it: give at least {blocks}"
        )


def check_length(config, tokens) -> None:
    """Refuses `tokens [B, T]` that are more than the positions of `config`."""
    if tokens.shape[1] > config.max_positions:
        raise ConfigError(
            f"a sequence of {tokens.shape[1]} tokens is longer than the model's "
            f"{config.max_positions} positions: raise model.max_positions or shorten it"
        )
