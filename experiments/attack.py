r"""Says how well a fine-tuned classifier holds where its word vectors are moved against it.

  python -m experiments.attack --workdir=runs/bbc --epsilon=0.3 --steps=20 --restarts=3

The radius is a share of the norm of a text's own word vectors. With --wordnet=DIR (its index.noun,
data.noun and so on) the texts are attacked too: up to 15% of the words become synonyms, those that
raise the loss most. The last line of stdout is one JSON object: the accuracy, that under attack,
and the first restart's by steps. See docs/finetuning.md.
"""

from absl import flags

from experiments import entry
from llm_jax import data
from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text import WordNet
from llm_jax.evaluation.attacks import attack_word_vectors
from llm_jax.evaluation.labels import text_outputs
from llm_jax.evaluation.synonym_attack import attack_words
from llm_jax.training.restore import load_model
from llm_jax.training.workdir import data_directory

WORKDIR = flags.DEFINE_string("workdir", None, "The run whose model is attacked.")
SPLIT = flags.DEFINE_string("split", "test", "Of its data: train, validation or test.")
STEP = flags.DEFINE_string("step", "best", "Checkpoint: a step, best or last.")
EPSILON = flags.DEFINE_float("epsilon", 0.3, "Radius, as a share of the norm of a text's vectors.")
STEPS = flags.DEFINE_integer("steps", 20, "Steps of each restart.")
RESTARTS = flags.DEFINE_integer("restarts", 3, "Random starts.")
ROWS = flags.DEFINE_integer("rows", 0, "So many first texts; 0: all.", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Texts at a time.")
SEED = flags.DEFINE_integer("seed", 0, "Of the random starts.")
WORDNET = flags.DEFINE_string("wordnet", "", "Folder with WordNet's files; empty: no swaps.")
flags.adopt_module_key_flags(entry)


def main() -> dict:
    """Runs the attack; returns the result that is printed in JSON."""
    workdir = entry.required(WORKDIR)
    restored = load_model(workdir, int(STEP.value) if STEP.value.isdigit() else STEP.value)
    objective = restored.run.objective
    unfit = objective.name != "text_classification" or restored.run.data.window
    if unfit or objective.target != "class":
        raise ConfigError(
            f"{workdir} holds no classifier of whole texts: tune one with python -m "
            "experiments.finetune"
        )
    rows = data.open_split(data_directory(workdir), SPLIT.value, objective)
    thesaurus = WordNet(WORDNET.value) if WORDNET.value else None
    if thesaurus is not None and rows.manifest.inputs["second"]:
        raise ConfigError("--wordnet is for single texts, and these are pairs: leave it out")
    found = attack_word_vectors(
        restored.model,
        restored.params,
        rows,
        epsilon=EPSILON.value,
        steps=STEPS.value,
        restarts=RESTARTS.value,
        seed=SEED.value,
        batch_size=BATCH_SIZE.value,
        limit=ROWS.value,
    )
    found["synonyms"] = (
        "skipped: no --wordnet" if thesaurus is None else _swapped(restored, rows, thesaurus)
    )
    how = {"epsilon": EPSILON.value, "steps": STEPS.value, "restarts": RESTARTS.value}
    return found | how | {"step": restored.step}


def _swapped(restored, rows, thesaurus) -> dict:
    manifest = rows.manifest
    tokenizer = data.load_tokenizer(restored.tokenizer_path)
    count = min(ROWS.value or len(rows), len(rows))

    def judge(texts):
        how = {"batch_size": BATCH_SIZE.value}
        return text_outputs(restored.model, restored.params, tokenizer, texts, manifest, **how)[0]

    found = attack_words(judge, rows.texts()[:count], rows.labels[:count], thesaurus)
    return {name: value for name, value in found.items() if name != "texts"}


if __name__ == "__main__":
    entry.launch(main)
