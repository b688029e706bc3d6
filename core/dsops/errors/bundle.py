"""What is wrong with a bundle, or with a model that shall become one."""

from dsops.errors.base import DsopsError


class BundleError(DsopsError):
    """The artifact is at fault."""

    code = "bundle"


class MalformedBundle(BundleError):
    """The bytes do not follow the bundle format."""

    code = "bundle.malformed"
    default_hint = "build or fetch the bundle again; the file is damaged or is not a dsops bundle"


class DigestMismatch(BundleError):
    """Bytes differ from the digest that was signed."""

    code = "bundle.digest_mismatch"
    default_hint = "fetch the bundle again; if it happens twice, the copy at the source is damaged"


class UntrustedBundle(BundleError):
    """A signature, role, version or policy rule refused it."""

    code = "bundle.untrusted"
    default_hint = "sign the bundle with the model owner's key, or check which trust root the device holds"


class ContentSealed(BundleError):
    """An encrypted payload cannot be opened: no key came for this device, or it is not the right one."""

    code = "bundle.sealed"
    default_hint = "let the controller send a new directive, and check that it holds the bundle's content key"


class IncompatibleBundle(BundleError):
    """The device cannot run it: hardware, runtime version or operators."""

    code = "bundle.incompatible"
    default_hint = "build a variant for this class of hardware"


class WrongHardware(IncompatibleBundle):
    """A bundle was signed for other classes of hardware."""

    code = "bundle.wrong_hardware"


class RuntimeTooOld(IncompatibleBundle):
    """A bundle needs a newer inference runtime than the device has."""

    code = "incompatible.runtime"
    default_hint = "update ai-edge-litert on the device, or build for its version"


class OperatorMissing(IncompatibleBundle):
    """The device's runtime does not know an operator, or not in the version that the model uses."""

    code = "incompatible.operator"
    default_hint = "update ai-edge-litert on the device, or build without the operator"


class ContractBroken(IncompatibleBundle):
    """Inputs or outputs are not those that programs on the device use now."""

    code = "incompatible.tensors"
    default_hint = "if the programs are ready for it: dsops rollout create --changes-contract"


class DelegateMissing(IncompatibleBundle):
    """A bundle needs an accelerator that the device does not have."""

    code = "incompatible.delegate"


class OverMemory(IncompatibleBundle):
    """A bundle needs more memory than the device has."""

    code = "incompatible.memory"
    default_hint = "build a smaller variant for this class of hardware"


class OverSize(IncompatibleBundle):
    """A bundle is larger than the device, or its own budget, allows."""

    code = "incompatible.size"
    default_hint = "build a smaller variant for this class of hardware"


class TooSlow(IncompatibleBundle):
    """A frame takes longer on the device than the budget allows."""

    code = "incompatible.latency"
    default_hint = "build a faster variant for this class of hardware"


class GoldenMismatch(BundleError):
    """The model does not give the expected outputs for its golden inputs."""

    code = "bundle.golden_mismatch"
    default_hint = "build the bundle again: payload, labels and golden inputs do not belong together"


class InvalidModel(BundleError):
    """A model file is not one, or its structure is unsound."""

    code = "model.invalid"
    default_hint = "export the model again"


class UnsupportedModel(BundleError):
    """A model uses an operator or a shape that cannot be converted."""

    code = "model.unsupported"
    default_hint = "replace the operator, or convert the model to TFLite by another tool and give that file"


class AccuracyGateFailed(BundleError):
    """The quantized model is worse than its gate allows."""

    code = "model.accuracy_gate"
    default_hint = "give more calibration data, choose another quantization mode, or change the gate"
