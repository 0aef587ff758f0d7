"""tarq: target attention at the price of a look-up, for pre-ranking (arXiv 2509.16931).

Every item has L codes of residual quantisation. A user's history is attended to once for all L x K code vectors (personalised code
books) instead of once for every candidate; a candidate then adds up its L rows. While training, an exact target attention (the
teacher) learns beside the student from the same clicks, and the alignment loss of the authors' code ties both. Books, alignment,
teacher and student are the paper's; the fusion with the two towers, the weights and the warm-up are a reconstruction.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from feature_store.batch import PageBatch
from models.attention import MultiHead
from models.losses import Terms, combined, page_terms
from models.quantiser import ResidualQuantiser, alignment, code_counts, code_figures, sum_of_codes
from models.towers import AttentionConfig, AttentionNet, Interaction, Read, Seen, TargetAttentionNet, Towers, product, scaled


class TarqConfig(AttentionConfig):
    """Settings of `tarq`."""

    levels: int = Field(3, ge=1, description="L, codes of an item")
    codes: int = Field(64, ge=2, description="K, vectors of a code book; 256 pays from some thousand candidates on")
    distil: float = Field(0.1, ge=0, description="weight of alignment and reconstruction together")
    align: float = Field(1.0, ge=0, description="weight of the alignment of the code books within them")
    reconstruct: float = Field(1.0, ge=0, description="weight of the reconstruction of the teacher's vector within them")
    quantise: float = Field(0.1, ge=0, description="weight of the losses of quantisation and of the autoencoder")
    warm_up: int = Field(200, ge=0, description="step from which on the codes count; item vectors have taken shape before it")
    begin: Literal["kmeans", "random"] = Field("kmeans", description="code vectors at that step: k-means of its items, or any")


class Ranked(NamedTuple):
    """What tarq gives for N shown items.

    Attributes
    ----------
    logits : [N]. codes : [N, L]. The rest is there while training, else empty, [N] each: teacher, its logits; kl and rest, see
        `models.quantiser.Aligned`; quantised, the loss of the code books; decoded, the squared error of the autoencoder.
    """

    logits: Tensor
    codes: Tensor
    teacher: Tensor
    kl: Tensor
    rest: Tensor
    quantised: Tensor
    decoded: Tensor


class Person(NamedTuple):
    """The user's side of one request, computed once.

    Attributes
    ----------
    cosine : [d] the user's vector times the sharpness. books : [L * K, h] personalised code books behind the first layer of the
        head, with an L-th of its bias. mix : [d, h] what that layer makes of an item's vector.
    """

    cosine: Tensor
    books: Tensor
    mix: Tensor


class Tarq(Towers):
    """Scores of the shown items of a PageBatch."""

    name = "tarq"
    config_type = TarqConfig
    config: TarqConfig

    def __init__(self, config: TarqConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        d = config.dim
        self.step = 0
        # They read rows of mean square 1: beside fresh rows every bias is so large that all items have one code.
        self.encoder, self.decoder = _network(2 * d, d), _network(d, 2 * d)
        self.quantiser = ResidualQuantiser(config.levels, config.codes, d)
        self.personal = MultiHead(d, config.heads)
        self.head = Interaction(d, config.hidden, config.dropout)
        self.teacher = AttentionNet(d, config.heads, config.hidden, config.dropout)

    def set_step(self, step: int) -> None:
        """Also tells whether the warm-up is over."""
        super().set_step(step)
        self.step = step

    def forward(self, batch: PageBatch) -> Ranked:
        """Logits and codes in the batch's order, and while training what the losses need."""
        read = self.read(batch)
        seen = self.look(read)
        pair, vectors = product(read, seen), self.encoder(scaled(read.raw))
        if self.training and self.step >= self.config.warm_up and not self.quantiser.begun:
            self._begin(vectors.detach(), batch, read)
        books = self.books(seen.history, read.mask)
        codes = self.quantiser.encode(vectors)
        logits = seen.logits + self.head(_found(books, codes, read), pair, read.key)
        none = logits.new_zeros(0)
        if not self.training:
            return Ranked(logits, codes, none, none, none, none, none)
        return Ranked(logits, codes, *self._taught(read, seen, pair, vectors, books))

    def _begin(self, vectors: Tensor, batch: PageBatch, read: Read) -> None:
        """The end of the warm-up, on every rank at the same step."""
        if self.config.begin == "kmeans":
            from models.code_start import begin_codes  # here, because serving does not need scikit-learn

            begin_codes(self.quantiser, vectors, batch.weight, read.key, self.config.seed)
        self.quantiser.begun.fill_(True)

    def books(self, history: Tensor, mask: Tensor) -> Tensor:
        """[B, L, K, d] personalised code books: what every code vector finds in a history [B, M, d] with mask [B, M]."""
        raw = self.quantiser.books
        found = self.personal(raw.flatten(0, 1).expand(len(history), -1, -1), history, mask)
        return found.view(len(history), *raw.shape)

    def _taught(self, read: Read, seen: Seen, pair: Tensor, vectors: Tensor, books: Tensor) -> tuple[Tensor, ...]:
        """Teacher's logits, kl, rest, and the losses of quantisation and autoencoder, [N] each."""
        quantised = self.quantiser(vectors)
        target, extra = self.teacher(read, pair)
        aligned = alignment(vectors, quantised.codes, self.quantiser.books, books, target, read.shown)
        decoded = (self.decoder(quantised.vector) - scaled(read.raw).detach()).square().mean(1)
        return seen.logits + extra, aligned.kl, aligned.rest, quantised.loss, decoded

    def terms(self, output: Ranked, batch: PageBatch) -> Terms:
        """Binary cross-entropy of student and teacher, alignment and reconstruction, quantisation and autoencoder."""
        clicks = page_terms(output.logits, batch)
        parts = [(1.0, (clicks.sums[0], clicks.weights[0]))]
        if len(output.teacher):
            config, taught = self.config, page_terms(output.teacher, batch)
            parts.append((1.0, (taught.sums[0], taught.weights[0])))
            for factor, loss in ((config.distil * config.align, output.kl), (config.distil * config.reconstruct, output.rest),
                                 (config.quantise, output.quantised), (config.quantise, output.decoded)):
                parts.append((factor if self.quantiser.begun else 0.0, ((loss * batch.weight).sum(), batch.weight.sum())))
        return combined(*parts)

    def validation_terms(self, output: Ranked, batch: PageBatch) -> Terms:
        """Binary cross-entropy of the student's clicks alone."""
        return page_terms(output.logits, batch)

    @staticmethod
    def logits(output: Ranked) -> Tensor:
        """[N]."""
        return output.logits

    def measures(self, output: Ranked, batch: PageBatch) -> dict[str, tuple[Tensor, Tensor]]:
        """How often each code occurs, [L, K]; see `figures`."""
        counts = code_counts(output.codes, batch.weight, self.config.codes).to(output.logits.dtype)
        return {"codes": (counts, torch.ones_like(counts))}

    def figures(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Use, entropy and most frequent code of each level (`models.quantiser.code_figures`)."""
        return code_figures(sums["codes"][0])

    def code_vectors(self, item: Tensor, category: Tensor) -> Tensor:
        """[n, d] vectors of items by index [n] that are quantised."""
        return self.encoder(scaled(torch.cat(self.found(item, category), 1)))

    def codes(self, item: Tensor, category: Tensor) -> Tensor:
        """[n, L] codes of items by index [n]."""
        return self.quantiser.encode(self.code_vectors(item, category))

    @torch.no_grad()
    def person(self, batch: PageBatch) -> Person:
        """The user's side of a batch of one page, whatever is shown on it."""
        read = self.read(batch)
        seen = self.look(read)
        return self.prepared(seen.user[0], seen.history, read.mask)

    @torch.no_grad()
    def prepared(self, user: Tensor, history: Tensor, mask: Tensor) -> Person:
        """The user's side from the user's vector [d], the history [1, M, d] and its mask [1, M].

        The first layer of the head is linear, and so is the last one of the attention: both are applied to the books, and the first
        to the product with the user's vector, beforehand.
        """
        weight, bias = self.head.mlp.layers[0].parameters()
        found, pair = weight[:, :self.config.dim], weight[:, self.config.dim:]
        looked = self.personal.looked(self.quantiser.books.flatten(0, 1)[None], history[mask][None])[0]
        out, shift = self.personal.out.parameters()
        books = F.linear(looked, found @ out, found @ shift + bias / self.config.levels)
        return Person(self.sharpness * user, books, (pair * user).t().contiguous())

    @torch.no_grad()
    def scores(self, person: Person, codes: Tensor, vectors: Tensor) -> Tensor:
        """[C] logits of candidates from the side tables: codes [C, L] int32 or int64, vectors [C, d] of `items`.

        They are those of `forward` without the level of the page and the place on it, which do not change the order.
        """
        levels = torch.arange(codes.shape[1], dtype=codes.dtype, device=codes.device)
        hidden = F.embedding_bag(codes + self.config.codes * levels, person.books, mode="sum")
        # Into what is there already: with thousands of candidates every further copy of [C, h] is seen in the latency.
        hidden.addmm_(vectors, person.mix).relu_()
        for layer in self.head.mlp.layers[1:]:
            hidden = layer(hidden).relu_()
        out, shift = self.head.mlp.out.parameters()
        return torch.addmv(shift + vectors @ person.cosine, hidden, out[0])


def teacher_of(model: Tarq) -> TargetAttentionNet:
    """The teacher as a model of its own: exact target attention on the same tables and towers, for the CPU."""
    known = set(AttentionConfig.model_fields)
    settings = {name: value for name, value in model.config.model_dump().items() if name in known}
    made = TargetAttentionNet(AttentionConfig.model_validate(settings), model.rows)
    given = {name.replace("teacher.", "exact.", 1) if name.startswith("teacher.") else name: value
             for name, value in model.state_dict().items()}
    made.load_state_dict({name: given[name] for name in made.state_dict()})
    return made.eval()


def _network(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def _found(books: Tensor, codes: Tensor, read: Read) -> Tensor:
    """[N, d] the student's vector: the sum of each item's rows in the books [B, L, K, d] of its page's user."""
    levels, size = books.shape[1:3]
    return sum_of_codes(books.flatten(0, 2), codes + (read.shown.page * levels * size)[:, None], size)
