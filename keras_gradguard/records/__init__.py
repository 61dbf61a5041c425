"""The plain values that flow: diagnoses, health, reports."""

from keras_gradguard.records.health import (
    LossReach,
    OptimizerHealth,
    VariableHealth,
)
from keras_gradguard.records.kinds import (
    KINDS,
    SCHEMA,
    SEVERITIES,
    STATUSES,
)
from keras_gradguard.records.report import Diagnosis, Help, Report, finite

__all__ = [
    "KINDS",
    "SCHEMA",
    "SEVERITIES",
    "STATUSES",
    "Diagnosis",
    "Help",
    "LossReach",
    "OptimizerHealth",
    "Report",
    "VariableHealth",
    "finite",
]
