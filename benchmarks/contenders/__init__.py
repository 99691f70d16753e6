"""The contenders by name: where each lives, and which environment it needs. Adding one is a file and a line here."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """How to start a contender.

    Args:
        path: ``module:Class`` in this package.
        environment: its line in `environments.REQUIREMENTS`.
        variables: what its process finds in the environment.
    """

    path: str
    environment: str
    variables: dict[str, str] = field(default_factory=dict)


CONTENDERS = {
    "clearstone": Entry("clearstone:Recording", "clearstone"),
    "clearstone-idle": Entry("clearstone:Idle", "clearstone"),
    "clearstone-disabled": Entry("clearstone:Disabled", "clearstone", {"CLEARSTONE_DISABLED": "1"}),
    "bare-prototype": Entry("prototype:Prototype", "plain"),
    "clearstone-sdk": Entry("clearstone_sdk:ClearstoneSdk", "clearstone-sdk", {"CLEARSTONE_TELEMETRY_DISABLED": "1"}),
    "agentcassette": Entry("agentcassette:AgentCassette", "agentcassette"),
    "agent-rewind": Entry("agent_rewind:AgentRewind", "agent-rewind"),
    "opentelemetry": Entry("opentelemetry:OpenTelemetry", "opentelemetry"),
    "logfire": Entry("logfire:Logfire", "logfire"),
    "langfuse": Entry("langfuse:Langfuse", "langfuse"),
    "mlflow": Entry("mlflow:MLflow", "mlflow", {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}),
}


def make(name: str, folder: Path) -> Any:
    """Return the contender of that name, set up in this process."""
    module, _, class_name = CONTENDERS[name].path.partition(":")
    return getattr(importlib.import_module(f"contenders.{module}"), class_name)(folder)
