"""Modules that libraries import and this program does not use: each is loaded when somebody first asks for what it has.

gRPC imports asyncio for an interface of its own that nothing here calls, pydantic the metadata of every installed
package for plug-ins, TUF's client an HTTP library, and so on. Together they are a tenth of the memory of a process on a
device, and of the time until it answers. A module that is postponed stands in ``sys.modules`` from its import on, and
behaves as it always does: what is asked of it loads it.

Source: PEP 302 and PEP 451, a finder on ``sys.meta_path``; as ``importlib.util.LazyLoader``, which Python 3.11 loads as
soon as a second module imports it.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # what only a type needs is not loaded: it brings tempfile, shutil and three libraries for archives
    from importlib.abc import Loader

POSTPONED: Mapping[str, tuple[str, ...]] = {
    "asyncio": (),  # gRPC, for grpc.aio
    "calendar": (),  # protobuf, for messages of a date; it loads locale
    "cryptography.hazmat.backends.openssl.backend": ("backend",),  # cryptography, for signatures that are never made
    "cryptography.hazmat.primitives.serialization.ssh": (  # cryptography, for keys of SSH: with them old ciphers
        "SSHCertPrivateKeyTypes",
        "SSHCertPublicKeyTypes",
        "SSHCertificate",
        "SSHCertificateBuilder",
        "SSHCertificateType",
        "SSHPrivateKeyTypes",
        "SSHPublicKeyTypes",
        "load_ssh_private_key",
        "load_ssh_public_identity",
        "load_ssh_public_key",
        "ssh_key_fingerprint",
    ),
    "difflib": (),  # for a key of the configuration that nobody knows
    "dsops.sample_sealing": (),  # the data process, where samples are sealed
    "dsops.sealing": (),  # the data process, for a sealed bundle: all of cryptography
    "dsops.tflite_lint.checks_operators": ("why_not_admitted",),  # a throw-away process looks through payloads
    "dsops.tflite_lint.linting": ("lint", "list_operators"),
    "email.utils": ("parseaddr",),  # cryptography, for addresses in certificates
    "google.protobuf.internal.python_message": (),  # protobuf, for messages that are not of C
    "grpc.aio": (),
    "http.client": (),  # for [transfer] http, which few devices have
    "importlib.metadata": ("entry_points",),  # pydantic, for plug-ins; ours, for a runtime recorded in another way
    "locale": (),  # subprocess, for text in another encoding
    "pydantic.json_schema": (  # pydantic, for descriptions of models
        "DEFAULT_REF_TEMPLATE",
        "GenerateJsonSchema",
        "JsonSchemaMode",
        "JsonSchemaValue",
        "PydanticJsonSchemaWarning",
        "WithJsonSchema",
        "model_json_schema",
    ),
    "securesystemslib._gpg.functions": (),  # TUF's library, for keys of GnuPG, which nobody has
    "securesystemslib._vendor.ed25519.ed25519": (  # for signatures where there is no cryptography
        "SignatureMismatch",
        "checkvalid",
    ),
    "stringprep": (),  # the codec of host names, for names that are not of ASCII
    "tempfile": (),  # TUF's library, for files that ours writes
    "tokenize": (),  # linecache and inspect, for the source of a line
    "tuf.ngclient.urllib3_fetcher": ("Urllib3Fetcher",),  # TUF's client, which is given a fetcher of ours
    "urllib.request": (),  # paho, for proxies
    "zstandard": (),  # for a delta
}
"""Modules, and what of each its importers bind by name: that loads it when it is called or asked for something."""


def postpone() -> None:
    """Postpone :data:`POSTPONED` from now on, in this process; what is loaded already stays.

    Pydantic's plug-ins are switched off for this process and those that it starts: none is wanted on a device, and to
    look for them is to read the metadata of every package.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.meta_path.insert(0, _Finder({name: how for name, how in POSTPONED.items() if name not in sys.modules}))


def leave_out(name: str) -> None:
    """Let a module that is not loaded yet count as not installed, from now on, in this process."""
    sys.modules.setdefault(name, cast("ModuleType", None))  # as "The module cache" in Python's reference has it


_giving_way = threading.RLock()


class _Later(ModuleType):
    """Stands for a module until something is asked of it. Its parts are found by :class:`_Finder`."""

    __path__: MutableSequence[str] = []  # noqa: RUF012 - nobody adds to it

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system asks for these of every module
            raise AttributeError(name)
        return getattr(_load(self), name)


def _load(later: ModuleType) -> ModuleType:
    name = later.__name__
    with _giving_way:  # or a second thread would take away what the first has loaded by then, and load it again
        if sys.modules.get(name) is later:
            del sys.modules[name]
    return importlib.import_module(name)


class _Bound:
    """Stands for an object of a module in whoever binds it by name; loads the module when it is called or asked."""

    def __init__(self, later: ModuleType, name: str) -> None:
        self._later, self.__name__ = later, name

    def __call__(self, *arguments: Any, **named: Any) -> object:  # noqa: ANN401 - whatever the function takes
        function: Callable[..., object] = getattr(_load(self._later), self.__name__)
        return function(*arguments, **named)

    def __getattr__(self, name: str) -> object:
        return getattr(getattr(_load(self._later), self.__name__), name)


class _Finder:
    """Finds each module once as one that comes later; then leaves it to the finders after this one."""

    def __init__(self, postponed: Mapping[str, tuple[str, ...]]) -> None:
        self._postponed = dict(postponed)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to make the module; None for one that is not postponed, or is asked for again."""
        functions = self._postponed.pop(fullname, None)
        if functions is not None:
            return ModuleSpec(fullname, cast("Loader", _Postpone(functions)))
        return _part_of(fullname.rpartition(".")[0], fullname) if path is _Later.__path__ else None


def _part_of(package: str, name: str) -> ModuleSpec | None:
    """Return how to make a module of a package that is loaded for its sake, by this thread or another one."""
    whole = sys.modules.get(package)
    if whole is None or isinstance(whole, _Later):
        whole = _load(whole) if whole else importlib.import_module(package)
    if name in sys.modules:  # the package has loaded it
        return ModuleSpec(name, cast("Loader", _Keep(sys.modules[name])))
    return PathFinder.find_spec(name, getattr(whole, "__path__", ()))


class _Postpone:
    """Makes a :class:`_Later`."""

    def __init__(self, functions: tuple[str, ...]) -> None:
        self._functions = functions

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Let the import system make a plain one."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the module what can be bound by name, and let it wait."""
        for name in self._functions:
            setattr(module, name, _Bound(module, name))
        module.__class__ = _Later


class _Keep:
    """Gives a module that is loaded, so that it is not loaded a second time."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return it."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        module.__spec__ = self._spec
