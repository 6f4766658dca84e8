"""How one check looks to a person: its phases as bars, its assertions, its steps."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from lighthouse.cli.support import print_facts, text
from lighthouse.model import Certificate, CheckStatus, Finding, Outcome, Step, Timings

PHASES = ("dns", "tcp", "tls", "ttfb", "transfer")

#: Characters of the bars' common scale.
_WIDTH = 40

_COLOURS: Mapping[CheckStatus | None, str] = {
    CheckStatus.SUCCESS: "green",
    CheckStatus.FAILURE: "red",
    CheckStatus.TIMEOUT: "red",
    CheckStatus.ERROR: "yellow",
    None: "bright_black",
}


def phases(timings: Timings, latency_ms: float | None) -> dict[str, float]:
    """Milliseconds of each phase that happened; `transfer` is all that is no other phase."""
    known = {
        phase: length
        for phase in PHASES[:-1]
        if (length := getattr(timings, f"{phase}_ms")) is not None
    }
    if latency_ms is not None and "ttfb" in known:
        known["transfer"] = max(0.0, latency_ms - sum(known.values()))
    return known


def bars(lengths: Mapping[str, float]) -> Iterator[str]:
    """A line for each phase: its length in ms, and a bar that begins where the last one ended."""
    total = sum(lengths.values())
    scale = _WIDTH / total if total > 0 else 0.0
    begun = 0.0
    for phase, length in lengths.items():
        first = round(begun * scale)
        last = round((begun + length) * scale)
        begun += length
        bar = "█" * (last - first) if last > first else "▏"
        yield f"  {phase:<9}{length:>10,.1f} ms  {' ' * min(first, _WIDTH - 1)}{bar}"


def as_data(outcome: Outcome) -> dict[str, Any]:
    """The outcome as the command prints it in JSON; fields are named like the columns."""
    lengths = phases(outcome.timings, outcome.latency_ms)
    return {
        "status": outcome.status,
        "error_code": outcome.reason,
        "error_message": outcome.message,
        "latency_ms": outcome.latency_ms,
        "http_status": outcome.http_status,
        "http_version": outcome.http_version,
        "timings": {f"{phase}_ms": length for phase, length in lengths.items()},
        "cert_expires_at": outcome.cert_expires_at,
        "certificate": _certificate(outcome.certificate),
        "addresses": list(outcome.addresses),
        "value": None if outcome.value is None else str(outcome.value),
        "attempts": outcome.attempts,
        "response_snippet": outcome.snippet,
        "findings": [_finding(each) for each in outcome.findings],
        "steps": [
            {
                "name": step.name,
                "status": step.status or "skipped",
                "latency_ms": step.latency_ms,
                "message": step.message,
                "findings": [_finding(each) for each in step.findings],
            }
            for step in outcome.steps
        ],
    }


def _certificate(shown: Certificate | None) -> dict[str, Any] | None:
    if shown is None:
        return None
    return {
        "subject": shown.subject,
        "issuer": shown.issuer,
        "fingerprint": shown.fingerprint,
        "expires_at": shown.expires_at,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "ok": finding.ok, "found": finding.found}


def show(target: str, outcome: Outcome, now: datetime | None = None) -> None:
    """Print the outcome for a person."""
    version, certificate = outcome.http_version, outcome.certificate
    facts: list[tuple[str, object]] = [
        ("target", target),
        ("status", outcome.status),
        ("error_code", outcome.reason),
        ("error_message", outcome.message),
        ("latency_ms", outcome.latency_ms),
        ("http_status", outcome.http_status),
        ("http_version", None if version is None else f"{version // 10}.{version % 10}"),
        ("cert_expires_at", _expiry(outcome.cert_expires_at, now or datetime.now(UTC))),
        ("cert_subject", None if certificate is None else certificate.subject),
        ("cert_issuer", None if certificate is None else certificate.issuer),
        ("cert_fingerprint", None if certificate is None else certificate.fingerprint),
        ("addresses", ", ".join(outcome.addresses) or None),
        ("value", None if outcome.value is None else str(outcome.value)),
        ("attempts", outcome.attempts),
        ("response_snippet", outcome.snippet),
    ]
    print_facts(facts)
    lengths = phases(outcome.timings, outcome.latency_ms)
    if lengths:
        click.echo("\nphases")
        for line in bars(lengths):
            click.echo(line)
    if outcome.findings:
        click.echo("\nassertions")
        _show_findings(outcome.findings, "  ")
    if outcome.steps:
        click.echo("\nsteps")
        _show_steps(outcome.steps)


def _expiry(ends: datetime | None, now: datetime) -> str | None:
    if ends is None:
        return None
    days = (ends - now).total_seconds() / 86_400
    away = f"in {days:.1f} days" if days >= 0 else f"{-days:.1f} days ago"
    return f"{text(ends)} ({away})"


def _show_findings(findings: Iterable[Finding], indent: str) -> None:
    findings = tuple(findings)
    width = min(max(len(text(each.name)) for each in findings), 50)
    for each in findings:
        mark = click.style("✓", fg="green") if each.ok else click.style("✗", fg="red")
        click.echo(f"{indent}{mark} {text(each.name):<{width}}  {text(each.found)}")


def _show_steps(steps: tuple[Step, ...]) -> None:
    width = min(max(len(text(step.name)) for step in steps), 50)
    for step in steps:
        word = "skipped" if step.status is None else step.status.value
        status = click.style(f"{word:<8}", fg=_COLOURS.get(step.status))
        message = "" if step.message is None else f"  {text(step.message)}"
        click.echo(f"  {status} {text(step.name):<{width}} {step.latency_ms:>10,.1f} ms{message}")
        if step.findings:
            _show_findings(step.findings, "           ")
