"""VishwamAI's own: models that no published family expresses, with our configuration and our paths."""

from vishwamai.hf.family import Family
from vishwamai.hf.names import EXPERTS, PLAIN, SANDWICH, WHOLE

OWN = "vishwamai"
_IN_LAYER = "layers.{layer}."

FAMILIES = (
    Family(
        model_type=OWN,
        architecture="VishwamAI",
        attributes={},
        whole={path: path for path in WHOLE},
        layer={path: _IN_LAYER + path for path in PLAIN | SANDWICH},
        moe={path: _IN_LAYER + path + ".{expert}" * (path != "ffn.router") for path in EXPERTS},
    ),
)
