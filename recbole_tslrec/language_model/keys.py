"""The keys of what all paradigms share: the language model, its adapters, its training."""

from recbole_tslrec.config.key import Effect, Key, KeyGroup, declare
from recbole_tslrec.config.values import ABOVE_0, YES_OR_NO, integer, number, one_of, text, texts

_TITLE = "The language model (TSLRec §4.1, §4.2)"

FROZEN = declare(
    _TITLE,
    Key(
        "llm",
        "embedded",
        "A hub id, a folder with a transformers model, a GGUF file, 'smollm2' (a causal model from a "
        "wheel), or 'embedded': all-MiniLM-L6-v2 from the extra recbole_tslrec[embedded].",
        text(),
        Effect.MODEL,
    ),
    Key(
        "llm_trust_remote_code",
        False,
        "Whether to run the Python code that comes with the model; only for a source that you trust.",
        YES_OR_NO,
        Effect.NOTHING,
    ),
    Key(
        "llm_quantization",
        "none",
        "How the frozen weights are held, in [none, int8, nf4] (bitsandbytes).",
        one_of("none", "int8", "nf4"),
    ),
    Key(
        "llm_attention",
        "sdpa",
        "How attention is computed, in [sdpa, eager, flash_attention_2]; the last needs a GPU and the "
        "package flash-attn.",
        one_of("sdpa", "eager", "flash_attention_2"),
        Effect.NOTHING,
    ),
)

_POOLING = declare(
    _TITLE,
    Key(
        "llm_pooling",
        "last",
        "Which hidden state is read, in [last, mean]. last: at the last prompt position (Eq. 1). mean: "
        "the mean over all of them.",
        one_of("last", "mean"),
    ),
)

READING = KeyGroup(_TITLE, (*FROZEN.keys, *_POOLING.keys))

ITEM_INPUTS = declare(
    _TITLE,
    Key(
        "item_prompt",
        "slot",
        "What stands for an item in the prompt, in [slot, text, both]. slot: one position that holds a "
        "projected vector. text: its words (item_text), of which a history takes many more positions.",
        one_of("slot", "text", "both"),
        unchanged_at="slot",
    ),
    Key(
        "item_slots",
        "embedding",
        "What a slot projects, in [embedding, text, both]. embedding: e_v, the trained backbone's. "
        "text: the frozen language model's vector of the item's words (item_text). Both take the "
        "positions that one takes.",
        one_of("embedding", "text", "both"),
        unchanged_at="embedding",
    ),
)

RESPONSE = declare(
    _TITLE,
    Key("llm_response", "Response:", "d_res, the words after the history.", text()),
)

HISTORY = declare(
    _TITLE,
    Key(
        "llm_max_history",
        50,
        "The most recent items of a history that enter the prompt; the target counts the whole history "
        "all the same.",
        integer(1),
    ),
)

MEMORY = declare(
    _TITLE,
    Key(
        "llm_gradient_checkpointing",
        False,
        "Fine-tuning keeps few activations and computes them again: less memory, about a third more "
        "time, and the instruction in every prompt. False: causal models read it once a batch.",
        YES_OR_NO,
        unchanged_at=False,
    ),
)

ADAPTERS = declare(
    "Quantised LoRA; TSLRec's paper gives no rank",
    Key("lora_r", 16, "The rank of the adapters.", integer(1)),
    Key("lora_alpha", 32, "The scale of the adapters: alpha / r.", ABOVE_0),
    Key(
        "lora_dropout",
        0.05,
        "The dropout on the adapters' input, in [0, 1).",
        number(lambda share: 0 <= share < 1, "a number in [0, 1)"),
    ),
    Key(
        "lora_target_modules",
        "all-linear",
        "The layers that get an adapter: 'all-linear', or names of modules as peft takes them.",
        texts("'all-linear', or a module's name, or a list of them"),
        type="str or list",
    ),
)

EXAMPLES = declare(
    "One example is one interaction",
    Key(
        "max_examples_per_user",
        50,
        "One example is one interaction; of a user's longer history the latest so many.",
        integer(1),
    ),
)

_TRAINING_TITLE = "Fine-tuning"

STOPPING = declare(
    _TRAINING_TITLE,
    Key(
        "sft_epochs",
        10,
        "The most epochs of fine-tuning (TSLRec's paper gives no number).",
        integer(1),
    ),
    Key(
        "sft_stopping_step",
        3,
        "Epochs without a better validation (TSLRec: a lower loss on the users held out) before "
        "fine-tuning stops.",
        integer(1),
    ),
)

OPTIMISATION = declare(
    _TRAINING_TITLE,
    Key(
        "sft_users",
        1.0,
        "The share of users that fine-tuning reads, in (0, 1]; drawn once with the seed. Below 1: a "
        "quick first run.",
        number(lambda share: 0 < share <= 1, "a number in (0, 1]"),
        unchanged_at=1.0,
    ),
    Key(
        "sft_batch_positions",
        1024,
        "Positions of a batch, with padding; an instruction that is read once for all its prompts is "
        "not counted. Prompts of like length share a batch.",
        integer(1),
    ),
    Key(
        "sft_optimizer",
        "adamw_torch",
        "In [adamw_torch, adamw_8bit, paged_adamw_8bit]: bitsandbytes' 8-bit states for little memory; "
        "paged (GPU): moved to the host when memory is short.",
        one_of("adamw_torch", "adamw_8bit", "paged_adamw_8bit"),
    ),
)

TRAINING = declare(
    _TRAINING_TITLE,
    Key(
        "sft_learning_rate",
        1e-3,
        "The learning rate of fine-tuning (AdamW, linear decay after a warm-up over the first 5 %).",
        ABOVE_0,
    ),
    Key(
        "sft_valid_ratio",
        0.05,
        "The share of users held out to watch fine-tuning and stop it, in [0, 0.5]. 0: none, no early "
        "stopping.",
        number(lambda share: 0 <= share <= 0.5, "a number in [0, .5]"),
    ),
)
