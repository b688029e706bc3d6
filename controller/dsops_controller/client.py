"""The controller's REST interface as a Python class. Needs the ``client`` extra."""

import re
import ssl
import tomllib
from pathlib import Path
from urllib.parse import quote

import httpx
from pydantic import Field, ValidationError

from dsops import errors, ids, messages
from dsops.errors import InvalidConfig, InvalidInput, ServerUnreachable
from dsops.manifest import Frozen, first_problem
from dsops.messages import TrustPack
from dsops_controller.client_data import DataCalls, Files, Row
from dsops_controller.client_fleet import FleetCalls

LONG_S = 3600.0
"""For what reads or rewrites a whole lake."""


class Access(Frozen):
    """Where the controller is, whom to believe that it is it, and what proves who calls. A TOML file, mode 0600."""

    url: str = Field(pattern=r"^https://[^/?#\s]+$", description="https://host:port")
    ca: str
    token: str = Field(pattern=r"^[\x21-\x7e]+$")

    @classmethod
    def load(cls, path: Path) -> "Access":
        """Read a context file; a relative ``ca`` is relative to it.

        Raises:
            InvalidConfig: It is missing, not TOML, or has unknown or missing keys.
        """
        hint = "give the file that `dsops server init` wrote: --context FILE, or DSOPS_CONTEXT"
        try:
            access = cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InvalidConfig(f"cannot read context file {path}", why=str(error.strerror), hint=hint) from error
        except ValidationError as error:
            raise InvalidConfig(f"{path} is not a context file", why=first_problem(error), hint=hint) from error
        except ValueError as error:  # not TOML, or not UTF-8
            raise InvalidConfig(f"{path} is not TOML", why=str(error), hint=hint) from error
        return access.model_copy(update={"ca": str(path.parent / access.ca)})


class Client(DataCalls, FleetCalls):
    """Calls one controller.

    Every method raises ServerUnreachable when there is no answer, and the error that the controller named otherwise.
    """

    def __init__(self, access: Access, timeout_s: float = 30.0) -> None:
        try:
            trust = ssl.create_default_context(cafile=access.ca)
        except OSError as error:
            hint = "the key ca of the context file names the PEM file of the controller's authority"
            raise InvalidConfig(f"cannot use {access.ca}", why=_plain(error), hint=hint) from error
        headers = {"Authorization": f"Bearer {access.token}"}
        self._where = access.url
        try:
            self._http = httpx.Client(
                base_url=f"{access.url}/api/v1", verify=trust, headers=headers, timeout=timeout_s, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise InvalidConfig(
                f"{access.url} is not an address", why=str(error), hint='write url = "https://host:port"'
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def summary(self) -> Row:
        """Return the fleet's figures."""
        return self._json("GET", "/summary")

    def broker(self, *, again: bool = False) -> Row:
        """Return what the controller found out about the broker; it looks anew if it shall look ``again``."""
        return self._json("POST", "/broker/check") if again else self._json("GET", "/broker")

    def devices(self) -> list[Row]:
        """Return every device."""
        return self._rows("/devices")

    def device(self, device: str) -> Row:
        """Return one device."""
        return self._json("GET", f"/devices/{ids.device_id(device)}")

    def why(self, device: str, model: str | None = None) -> list[Row]:
        """Return of every signed bundle, of every model or of one, whether a device would accept it, and why."""
        return self._rows(f"/devices/{ids.device_id(device)}/why", model=model)

    def directive(self, device: str) -> Row:
        """Return a device's newest directive: ``envelope`` (base64), ``expires``, ``bundles``, ``challengers``."""
        return self._json("GET", f"/devices/{ids.device_id(device)}/directive")

    def new_token(self, device: str, ttl_s: int) -> Row:
        """Make a one-time enrolment token."""
        return self._json("POST", f"/devices/{ids.device_id(device)}/token", json={"ttl_s": ttl_s})

    def accept(self, device: str, key_sha256: str | None = None) -> Row:
        """Let a device take part; if a fingerprint is given, only while the device shows that key."""
        return self._json("POST", f"/devices/{ids.device_id(device)}/accept", json={"key_sha256": key_sha256})

    def reject(self, device: str) -> Row:
        """Refuse a device that waits."""
        return self._json("POST", f"/devices/{ids.device_id(device)}/reject")

    def suspend(self, device: str) -> Row:
        """Shut a device out until it is accepted again."""
        return self._json("POST", f"/devices/{ids.device_id(device)}/suspend")

    def pardon(self, device: str, bundle: str) -> Row:
        """Have a device try a bundle again that it quarantined."""
        return self._json("POST", f"/devices/{ids.device_id(device)}/pardon", json={"bundle": bundle})

    def decommission(self, device: str) -> Row:
        """Take a device out for good."""
        return self._json("POST", f"/devices/{ids.device_id(device)}/decommission")

    def preauthorise(self, devices: list[Row]) -> Row:
        """Let devices join by keys that are known beforehand; rows of ``device`` and ``key_sha256``, all or none."""
        return self._json("POST", "/devices/preauthorised", json={"devices": devices})

    def role(self, role: str) -> bytes:
        """Return the newest signed metadata of a TUF role; ``root`` gives the first root."""
        return self._call("GET", f"/trust/{_part(role)}").content

    def trust_pack(self, model: str) -> TrustPack:
        """Return everything that a device needs to decide about a model."""
        content = self._call("GET", f"/trust/{ids.model_name(model)}/pack").content
        return messages.decode(TrustPack, content, messages.MAX_PACK_BYTES)

    def published(self) -> Row:
        """Return everything that is published of trust: ``metadata`` and ``targets``, base64 by name."""
        return self._json("GET", "/trust")

    def publish_trust(self, documents: Row) -> list[Row]:
        """Publish signed roles and their small targets, of the form of :meth:`published`, in one step."""
        rows: list[Row] = self._call("POST", "/trust", json=documents).json()
        return rows

    def new_online_key(self, role: str) -> str:
        """Have the server make its next key for a role of its own, and return the public half (PEM)."""
        return str(self._json("POST", f"/trust/keys/{_part(role)}")["public"])

    def bundles(self) -> list[Row]:
        """Return every bundle."""
        return self._rows("/bundles")

    def bundle(self, model: str, release: int, variant: str | None = None) -> Row:
        """Return one bundle with its manifest; the variant must be named when the release has several."""
        query = f"?variant={_part(variant)}" if variant is not None else ""
        return self._json("GET", f"/bundles/{ids.model_name(model)}/{release}{query}")

    def bundle_file(self, model: str, release: int, variant: str) -> bytes:
        """Return a bundle's file."""
        path = f"/bundles/{ids.model_name(model)}/{release}/file?variant={_part(variant)}"
        return self._call("GET", path).content

    def push(self, bundle: bytes, role: bytes, content_key: bytes | None = None) -> Row:
        """Hand over a bundle, the role metadata that signs it, and the content key of one that is sealed."""
        files: Files = {
            "bundle": ("bundle", bundle, "application/octet-stream"),
            "role": ("role.json", role, "application/json"),
        }
        if content_key is not None:
            files["content_key"] = ("content_key", content_key, "application/octet-stream")
        return self._json("POST", "/bundles", files=files)

    def create_rollout(self, plan: Row) -> Row:
        """Create a rollout from a plan (see :class:`dsops_controller.rollout.plan.Plan`)."""
        return self._json("POST", "/rollouts", json=plan)

    def rollouts(self) -> list[Row]:
        """Return every rollout, newest first."""
        return self._rows("/rollouts")

    def rollout(self, rollout: str) -> Row:
        """Return one rollout with waves and deployments."""
        return self._json("GET", f"/rollouts/{_part(rollout)}")

    def abort_rollout(self, rollout: str) -> Row:
        """End a rollout."""
        return self._json("POST", f"/rollouts/{_part(rollout)}/abort")

    def resume_rollout(self, rollout: str) -> Row:
        """Let a paused rollout go on."""
        return self._json("POST", f"/rollouts/{_part(rollout)}/resume")

    def challengers(self, model: str | None = None) -> list[Row]:
        """Return which devices have which challenger, and how far they are with it."""
        return self._rows("/challengers", model=model)

    def set_challenger(self, challenge: Row) -> list[Row]:
        """Give devices a challenger (see :class:`dsops_controller.rollout.challengers.Challenge`)."""
        rows: list[Row] = self._call("POST", "/challengers", json=challenge).json()
        return rows

    def clear_challenger(self, model: str, devices: list[str]) -> Row:
        """Take a model's challenger from devices; from all when none is named."""
        named = "&".join(f"device={ids.device_id(device)}" for device in devices)
        return self._json("DELETE", f"/challengers/{ids.model_name(model)}?{named}")

    def promote_challenger(self, model: str, promotion: Row) -> Row:
        """Create a rollout of a model's challenger (see :class:`dsops_controller.rollout.challengers.Promotion`)."""
        return self._json("POST", f"/challengers/{ids.model_name(model)}/promote", json=promotion)

    def comparisons(self, **filters: str | int | None) -> list[Row]:
        """Return how champions and challengers compared; filters: model, device, minutes."""
        return self._rows("/comparisons", **filters)

    def sites(self) -> list[Row]:
        """Return the sites that have a budget."""
        return self._rows("/sites")

    def set_site(self, site: str, bytes_per_s: int, bytes_per_day: int) -> Row:
        """Give a site a budget; 0 sets no limit."""
        budget = {"bytes_per_s": bytes_per_s, "bytes_per_day": bytes_per_day}
        return self._json("PUT", f"/sites/{_part(site)}", json=budget)

    def clear_site(self, site: str) -> None:
        """Take a site's budget away."""
        self._call("DELETE", f"/sites/{_part(site)}")

    def drift(self, model: str | None = None) -> list[Row]:
        """Return drift by device and model."""
        return self._rows("/drift", model=model)

    def events(self, **filters: str | int | None) -> list[Row]:
        """Return what happened on devices, newest first; filters: device, kind, limit."""
        return self._rows("/events", **filters)

    def request_samples(self, wanted: Row) -> Row:
        """Ask devices for samples (see :class:`dsops_controller.rollout.sample_requests.Wanted`)."""
        return self._json("POST", "/sample-requests", json=wanted)

    def telemetry(self, **filters: str | int | None) -> list[Row]:
        """Return figures by device and release; filters: model, device, minutes."""
        return self._rows("/telemetry", **filters)

    def store_tables(self) -> list[Row]:
        """Return what each table of the lake holds."""
        return self._rows("/store/tables")

    def check_store(self) -> Row:
        """Have the lake looked over; return ``level`` and ``findings``."""
        return _mapping("/store/check", self._call("POST", "/store/check", timeout_s=LONG_S))

    def unpin(self, owner: str) -> None:
        """Give up the pins of a controller that does not come back."""
        self._call("POST", "/store/unpin", params={"owner": owner})

    def tend_store(self, what: str, **options: int | None) -> list[Row]:
        """Have the lake tended: ``compact``, ``vacuum`` (option hours) or ``retain``; return what was done."""
        path = f"/store/{_part(what)}"
        return _listing(path, self._call("POST", path, params=_given({**options}), timeout_s=LONG_S))

    def _rows(self, path: str, **filters: str | int | None) -> list[Row]:
        return _listing(path, self._call("GET", path, params=_given(filters)))

    def _json(self, method: str, path: str, json: Row | None = None, files: Files | None = None) -> Row:
        return _mapping(path, self._call(method, path, json=json, files=files))

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | int] | None = None,
        json: Row | None = None,
        files: Files | None = None,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        try:
            response = self._http.request(method, path, params=params, json=json, files=files, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"no answer from {self._where}", why=_plain(error)) from error
        except ValueError as error:  # a figure that JSON has no form for
            raise InvalidInput("the request cannot be sent", why=str(error), hint="give finite numbers") from error
        if response.is_error:
            raise _refusal(response)
        return response


def _given(filters: dict[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in filters.items() if value is not None}


def _refusal(response: httpx.Response) -> errors.DsopsError:
    try:
        return errors.from_dict(response.json())
    except (ValueError, AttributeError):  # not JSON, or not an object: something else answers there
        return ServerUnreachable(f"{response.url.host} answered {response.status_code}", why=response.text[:200])


def _decoded(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError as error:
        raise _strange(response.url.path) from error


def _listing(path: str, response: httpx.Response) -> list[Row]:
    rows = _decoded(response)
    if not isinstance(rows, list):
        raise _strange(path)
    return rows


def _mapping(path: str, response: httpx.Response) -> Row:
    answer = _decoded(response)
    if not isinstance(answer, dict):
        raise _strange(path)
    return answer


def _strange(path: str) -> ServerUnreachable:
    return ServerUnreachable(f"the answer to {path} is not of a controller", hint="check the url in the context file")


def _part(name: str) -> str:
    """Return a name as one part of a path; what it holds cannot lead elsewhere."""
    if name in {"", ".", ".."}:
        raise InvalidInput(f"{name!r} is not a name", hint="give the name that the list shows")
    return quote(name, safe="")


def _plain(error: Exception) -> str:
    """Return what the operating system or the TLS library says, without its number and place in the source."""
    return re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", str(error))
