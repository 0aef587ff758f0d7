"""What every model is: a module on TorchRec tables, with a config of its own, that turns a batch into logits or into flows."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from feature_store.batch import TABLES, FlowBatch, PageBatch, PairBatch
from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError
from models.embeddings import Tables
from models.layers import HashedDropout
from models.losses import Terms


class ModelConfig(BaseModel):
    """Settings every model has; a model's own config adds to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(16, ge=4, multiple_of=4, description="columns of the embedding tables")
    seed: int = Field(7, ge=0, lt=2**31, description="of weights, order of rows and dropout")
    epochs: int = Field(3, ge=1, description="most passes over the training rows")
    items_a_batch: int = Field(4_096, ge=1, description="shown items (or pairs) of a global batch, about")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW, dense layers")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW, dense layers")
    table_learning_rate: float = Field(0.05, gt=0, description="row-wise Adagrad, embedding tables")
    table_decay: float = Field(0.0, ge=0, description="L2 of the rows that a step touches; against learning rare items by heart")
    patience: int = Field(1, ge=0, description="epochs without a better validation AUC (a generator: loss) before training stops")


class Model(nn.Module):
    """Base of all models.

    Subclasses set `name`, `reads`, `config_type` and `features`, call `super().__init__(config, rows)` first and define
    `forward(batch) -> output` and `terms(output, batch)`. The output is one finite logit a shown item (or a pair), or a named tuple
    of tensors; then `logits` says which of them are the logits. A generator, which reads flows, has none. With `keeps_users` all
    training pages of a user come in one micro-batch.

    Parameters
    ----------
    config : the model's settings. rows : rows by embedding table (`models.embeddings.capacities`).
    """

    name: ClassVar[str]
    reads: ClassVar[Literal["pages", "pairs", "flows"]]
    config_type: ClassVar[type[ModelConfig]]
    features: ClassVar[Mapping[str, tuple[str, ...]]] = TABLES
    keeps_users: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, rows: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.rows = {table: int(rows[table]) for table in self.features if table in rows}
        self.tables = Tables(config.dim, rows, config.seed, self.features)

    @classmethod
    def build(cls, settings: Mapping[str, Any], rows: Mapping[str, int]) -> "Model":
        """A fresh model, the same for the same settings and rows. Raises ModelError for an unknown setting or one out of range."""
        config = cls.checked(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return cls(config, rows)

    @classmethod
    def checked(cls, settings: Mapping[str, Any]) -> ModelConfig:
        """The settings with their defaults. Raises ModelError for an unknown one or one out of range; names those there are."""
        try:
            return cls.config_type.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            known = ", ".join(cls.config_type.model_fields)
            raise ModelError(f"model {cls.name}: setting {key}: {first['msg']}; its settings are {known}") from error

    @classmethod
    def fitted(cls, settings: Mapping[str, Any], train_set: EncodedSet) -> dict[str, Any]:
        """The settings of a run on some training rows; a model may take numbers from those rows that its settings leave open."""
        return dict(settings)

    def set_step(self, step: int) -> None:
        """Tell the dropout layers which step this is; their masks depend on nothing else."""
        for module in self.modules():
            if isinstance(module, HashedDropout):
                module.step = step

    def terms(self, output: Any, batch: Any) -> Terms:
        """The loss before division; see `models.losses`."""
        raise NotImplementedError

    def validation_terms(self, output: Any, batch: Any) -> Terms:
        """The loss by which epochs are compared: what the model is for, without the terms that only help it to learn."""
        return self.terms(output, batch)

    @staticmethod
    def logits(output: Any) -> Tensor:
        """[n] the logits in what `forward` returned; none for a generator."""
        return output

    @staticmethod
    def targets(batch: Any) -> tuple[Tensor, Tensor]:
        """Label and weight of every logit, for validation."""
        raise NotImplementedError

    def measures(self, output: Any, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Further figures for validation: name -> sum and weight, both of one shape. They are added up over batches and ranks."""
        return {}

    def figures(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """What a validation reports of `measures`: name -> [2, ...] total sum and weight. By default sum / weight of scalars."""
        return {name: float(own[0] / own[1].clamp(min=1e-12)) for name, own in sums.items()}


Batch = PageBatch | PairBatch | FlowBatch
