"""The pocket models' tokenizer: a small byte-level BPE trained on the base corpus.

Every text is encoded as if a space stood before it, and decoding takes that space away again. So a response is the same
tokens whether it stands alone or after its prompt, and prompt ids followed by response ids are the ids of both texts
with a space between.
"""

from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ppo_lib.pocket.corpus import EOS, documents

PAD = "<pad>"
VOCABULARY = 1536  # at most; the corpus has fewer merges to give


def train_tokenizer(seed: int = 0, n_documents: int = 20_000, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on the first documents of the base corpus.

    Args:
        seed: the corpus's seed.
        n_documents: how many documents to read.
        vocabulary: number of tokens, the 256 bytes and the two special tokens included.

    Returns:
        A tokenizer with ``<pad>`` (id 0) and ``<eos>`` (id 1), which no text encodes to unless it spells them out.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents(seed), n_documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
