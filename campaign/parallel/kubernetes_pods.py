"""Kubernetes: each block is one pod that runs a block's script.

The pods need the run folder at the same path as the driver (a volume claim), an image with the same installation at
the same path, and a way to the driver's address. The package `kubernetes` is optional.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from campaign.errors import SiteError
from campaign.parallel.queues import (
    ANSWER_S,
    Job,
    JobState,
    QueueSilentError,
    SubmissionError,
    job_prefix,
    one_line,
)
from campaign.site_pools import KubernetesKeys, PoolConfig
from campaign.site_sizes import PoolSize, gpus_asked

APP = "crystal-campaign"
"""Label `app` of all our pods."""
_ENDS_WITHIN_S = 10
_ANSWER_S = (5.0, ANSWER_S)
"""How long a connection, and then each answer, may take [s]; the package itself would wait for ever."""
_KEPT_S = 300.0
"""How long a pod stays listed after its end was seen [s], for the record; the cluster keeps thousands of them."""
_TIDIED = 50  # pods that one listing deletes at most: each is a call
_PASSING = {429, 500, 502, 503, 504}


class KubernetesQueue:
    """The cluster that this machine's configuration, or the driver's own pod, belongs to.

    Raises:
        SiteError: The package is not installed, or there is no configuration.
    """

    provider = "kubernetes"
    keeps_ended = True

    def __init__(self, keys: KubernetesKeys) -> None:
        try:
            client: Any = importlib.import_module("kubernetes.client")
            config: Any = importlib.import_module("kubernetes.config")
        except ImportError as error:
            raise SiteError(
                "provider kubernetes needs the package kubernetes", cure="pip install kubernetes"
            ) from error
        try:
            try:
                config.load_kube_config()
            except config.ConfigException:
                config.load_incluster_config()
        except config.ConfigException as error:
            raise SiteError(
                "no Kubernetes cluster is configured here", value=one_line(str(error)),
                cure="set KUBECONFIG, or start the driver in a pod with a service account",
            ) from error  # fmt: skip
        configuration = client.Configuration.get_default_copy()
        configuration.retries = False  # whoever asks tries again
        self._api: Any = client.CoreV1Api(client.ApiClient(configuration))
        self._error: Any = client.ApiException
        self._keys = keys
        self._asked: dict[str, tuple[PoolConfig, PoolSize]] = {}
        self._serial = 0
        self._prefixes: set[str] = set()
        self._ended: dict[str, float] = {}

    def header(self, name: str, pool: PoolConfig, size: PoolSize, output: Path) -> str:
        """Return the first lines of a pod's script; what it asks for is in the pod's manifest."""
        self._asked[name] = pool, size
        self._prefixes.add(job_prefix(name.split("-")[1]))
        return f'#!/bin/bash\nexec >"{output}.stdout" 2>"{output}.stderr"'

    def check(self, script: Path) -> None:
        """Do nothing: a pod is judged when it is created."""

    def submit(self, script: Path, name: str) -> str:
        """Create the pod."""
        self._serial += 1
        pool, size = self._asked[name]
        pod = manifest(
            name, f"{time.time():.0f}-{self._serial}", script, pool=pool, size=size, keys=self._keys
        )
        try:
            self._api.create_namespaced_pod(self._keys.namespace, pod, _request_timeout=_ANSWER_S)
        except Exception as error:
            raise SubmissionError(*_said(error), passing=_passes(error)) from error
        return str(pod["metadata"]["name"])

    def jobs(self) -> dict[str, Job]:
        """Return the pods of all our campaigns; those of a campaign that works here go minutes after their end."""
        try:
            listed = self._api.list_namespaced_pod(
                self._keys.namespace, label_selector=f"app={APP}", _request_timeout=_ANSWER_S
            )
        except Exception as error:
            raise QueueSilentError(*_said(error)) from error
        jobs = {pod.metadata.name: _job_of(pod) for pod in listed.items}
        self._tidy(jobs)
        return jobs

    def _tidy(self, jobs: Mapping[str, Job]) -> None:
        """Delete pods that ended long enough ago, also those that a dead driver of the same campaign left."""
        now = time.monotonic()
        self._ended = {
            name: self._ended.get(name, now)
            for name, job in jobs.items()
            if job.state == "ended" and job.name.startswith(tuple(self._prefixes))
        }
        old = [name for name, since in self._ended.items() if now - since >= _KEPT_S]
        with contextlib.suppress(QueueSilentError):  # at the next listing
            self.cancel(old[:_TIDIED])

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Delete pods."""
        for job_id in job_ids:
            try:
                self._api.delete_namespaced_pod(
                    job_id, self._keys.namespace, grace_period_seconds=_ENDS_WITHIN_S,
                    _request_timeout=_ANSWER_S,
                )  # fmt: skip
            except self._error as error:
                if error.status != 404:  # it has gone by itself
                    raise QueueSilentError(*_said(error)) from error
            except Exception as error:
                raise QueueSilentError(*_said(error)) from error


def manifest(
    name: str, serial: str, script: Path, *, pool: PoolConfig, size: PoolSize, keys: KubernetesKeys
) -> dict[str, Any]:
    """Return a block's pod as the API takes it; reads the script.

    Args:
        name: Name of the pool's jobs, kept as a label.
        serial: What makes the pod's own name unique.
        script: What it runs.
        pool: Walltime and memory.
        size: Cores.
        keys: Image, volumes and the like.
    """
    asked: dict[str, str] = {"cpu": str(size.cores_per_node)}
    if pool.memory_gb_per_node:
        asked["memory"] = f"{pool.memory_gb_per_node}G"
    if gpus_asked(pool):
        asked[keys.gpu_resource] = str(gpus_asked(pool))
    pod_name = re.sub(r"[^a-z0-9-]+", "-", f"{name}-{serial}".lower()).strip("-")
    container = {
        "name": "block",
        "image": keys.image,
        "command": ["/bin/bash", "-c", script.read_text(encoding="utf-8")],
        "resources": {"requests": asked, "limits": asked},
        "volumeMounts": [
            {"name": f"volume-{i}", "mountPath": folder} for i, folder in enumerate(keys.volumes.values())
        ],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(pool.walltime),
        "containers": [container],
        "volumes": [
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": claim}}
            for i, claim in enumerate(keys.volumes)
        ],
    }
    if keys.secret:
        spec["imagePullSecrets"] = [{"name": keys.secret}]
    if keys.service_account:
        spec["serviceAccountName"] = keys.service_account
    labels = {"app": APP, "campaign-job": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name, "labels": labels}, "spec": spec}


def _job_of(pod: Any) -> Job:
    phase, labels = str(pod.status.phase), pod.metadata.labels or {}
    states: Mapping[str, JobState] = {"Pending": "queued", "Running": "running", "Unknown": "running"}
    state = states.get(phase, "ended")
    containers = [one.state for one in pod.status.container_statuses or () if one.state]
    ended = [one.terminated for one in containers if one.terminated]
    waiting = [one.waiting for one in containers if one.waiting]
    started = pod.status.start_time if state != "queued" else None
    words = [pod.status.reason, pod.status.message]
    words += [word for one in (*ended, *waiting) for word in (one.reason, one.message)]
    finished = [one.finished_at.timestamp() for one in ended if one.finished_at]
    return Job(
        pod.metadata.name,
        str(labels.get("campaign-job", "")),
        state,
        started=started.timestamp() if started else None,
        ended=max(finished, default=None) if state == "ended" else None,
        message="" if state == "running" else one_line(" ".join(word for word in words if word)),
    )


def _said(error: Exception) -> tuple[str]:
    body = getattr(error, "body", None)
    found = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', body) if isinstance(body, str) else None
    return (one_line(found.group(1) if found else f"{type(error).__name__}: {error}"),)


def _passes(error: Exception) -> bool:
    """Tell whether it is worth trying again: no answer, or one that says so."""
    status = getattr(error, "status", None)
    return status is None or status == 0 or status in _PASSING
