"""Two homogeneous spaces of AMEN (arXiv 2411.11502), joined by a gate: scenes against scenes, and items against items.

The abstract says that target and moveline, an item and scenes, are brought into common spaces; how is our reconstruction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import MultiHead, with_null


class SceneSpaces(nn.Module):
    """What a candidate finds in the scene visits of its user, seen as scenes and as the items touched there.

    Which token belongs to which visit is not in a batch. The items of a visit are pooled over the tokens of its scene, with
    weights that fall with the difference of their ages (steps of half a power of two) and depend on the token. A visit to a scene
    of which no token has an item has a learned vector of its scene instead. One learned null key before the visits makes attention
    defined, and lets a candidate find nothing.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.scene_query = nn.Linear(3 * dim, dim)
        self.scenes, self.items = MultiHead(dim, heads), MultiHead(dim, heads)
        self.no_scene, self.no_item = (nn.Parameter(torch.randn(dim) * 0.02) for _ in range(2))
        self.token, self.nearness = nn.Linear(dim, 1), nn.Parameter(torch.zeros(1))
        self.gate, self.into, self.empty = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.bridge, self.bridge_out = nn.Linear(3 * dim, dim), nn.Linear(dim, 1)

    def forward(self, candidates: Tensor, asked: Tensor, visits: Tensor, visit_mask: Tensor, touched: Tensor) -> Tensor:
        """candidates [B, L, d]; asked [B, L, 3 d] the candidate's category, the page's scene, the context;
        visits [B, V, d] encoded, of which some count; touched [B, V, d] their items (`pool`) -> [B, L, d]."""
        scene = self.scenes(self.scene_query(asked), *with_null(self.no_scene, visits, visit_mask))
        item = self.items(candidates, *with_null(self.no_item, touched, visit_mask))
        share = torch.sigmoid(self.bridge_out(F.relu(self.bridge(torch.cat([scene, item, scene * item], 2)))))
        return share * scene + (1.0 - share) * item

    def pool(self, visits: Tensor, visit_scene: Tensor, tokens: Tensor, near: Tensor, apart: Tensor) -> Tensor:
        """[B, V, d] the items of each visit.

        Parameters
        ----------
        visits : [B, V, d] encoded. visit_scene : [B, V, d] vectors of their scenes. tokens : [B, T, d].
        near : [B, V, T] whether a token has an item and is of the visit's scene. apart : [B, V, T] difference of their ages.
        """
        score = self.token(tokens).transpose(1, 2) - F.softplus(self.nearness) * apart
        some = near.any(2, keepdim=True)
        # A row without tokens is not used; it only must not be all -inf.
        weights = F.softmax(score.masked_fill(~near & some, float("-inf")), 2)
        pooled = torch.where(some, torch.bmm(weights, tokens), self.empty(visit_scene))
        return self.into(pooled * torch.sigmoid(self.gate(visits)))
