"""The sections of a setup: momentum, study and actors."""

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveInt,
    field_validator,
    model_serializer,
    model_validator,
)

from byzray.setups._section import Section

Placement = Literal["worker", "server", "update"]


class Momentum(Section):
    """Momentum and where it is kept.

    By its `name` it is `heavy-ball`, m <- beta m + (1 - dampening) g, or `mvr`: momentum with variance reduction, m <-
    g + (1 - a)(m - g'), where g' is the gradient of the same batch at the previous point (Cutkosky and Orabona, 2019).
    That is heavy-ball momentum with beta = dampening = 1 - a, plus (1 - a)(g - g'); it is kept at the workers.

    Attributes:
        name: which momentum.
        beta: the factor mu of the past, 0 for none.
        dampening: kappa; gradients enter with the factor 1 - kappa.
        nesterov: whether gradients are taken at the look-ahead point.
        placement: at each worker, at the server before aggregation, or in the update after aggregation (the standard).
        a: of `mvr` alone: how much of each gradient enters.
    """

    name: Literal["heavy-ball", "mvr"] = "heavy-ball"
    beta: float = Field(default=0.9, ge=0, lt=1)
    dampening: float = Field(default=0.0, ge=0, le=1)
    nesterov: bool = False
    placement: Placement = "worker"
    a: float | None = Field(default=None, ge=1e-6, le=1)

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, dict):
            return data
        if data.get("name", "heavy-ball") != "mvr":
            if data.get("a") is not None:
                raise ValueError("expected no 'a', which belongs to {name: mvr}")
            return data
        others = data.keys() - {"name", "a"}
        if data.get("placement") == "worker":
            others -= {"placement"}
        if others:
            raise ValueError(
                f"expected no {sorted(others)[0]!r} with mvr, whose only option is 'a'; its placement is worker"
            )
        a = data.get("a", 0.1)
        known = isinstance(a, int | float) and not isinstance(a, bool) and 1e-6 <= a <= 1
        return {"name": "mvr", "a": a, **({"beta": 1.0 - a, "dampening": 1.0 - a} if known else {})}

    @model_serializer
    def _in_its_fields(self) -> dict[str, Any]:
        """The fields of this kind of momentum; heavy-ball is written as by earlier versions."""
        fields = ("name", "a") if self.name == "mvr" else ("beta", "dampening", "nesterov", "placement")
        return {field: getattr(self, field) for field in fields}


class Study(Section):
    """The study of gradients at every step.

    Attributes:
        past: how many past steps enter the composite curvature.
        kappa: whether each step gets one more metric, the robustness coefficient that the aggregate shows; by default
            where workers have examples of their own (`split`).
    """

    past: PositiveInt = 1
    kappa: bool | None = None

    @model_serializer
    def _in_its_fields(self) -> dict[str, Any]:
        """The fields; `kappa`, which came later, only where it is set: digests of earlier setups stay valid."""
        return {"past": self.past, **({} if self.kappa is None else {"kappa": self.kappa})}


class Actors(Section):
    """How a run is laid out on Ray actors.

    Attributes:
        workers_per_actor: how many workers live together in one actor.
        cpus_per_actor: CPUs that Ray reserves for each actor, the server included; none: an even share of the
            cluster's, at most 1.
        gpus_per_actor: the same for GPUs, which Ray hands out in fractions.
    """

    workers_per_actor: PositiveInt = 1
    cpus_per_actor: float | None = Field(default=None, ge=1e-4, allow_inf_nan=False)
    gpus_per_actor: NonNegativeFloat | None = Field(default=None, allow_inf_nan=False)

    @field_validator("gpus_per_actor")
    @classmethod
    def _as_ray_counts(cls, gpus: float | None) -> float | None:
        if gpus is not None and (0 < gpus < 1e-4 or (gpus > 1 and gpus != int(gpus))):
            raise ValueError("expected 0, a share from 0.0001 to 1, or a whole number")
        return gpus
