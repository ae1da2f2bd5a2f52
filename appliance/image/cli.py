"""`appliance image`: lock, build, inspect and unpack images."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from appliance import resources
from appliance.image import authenticode, machine, measure, oci, provenance, secure_boot, snp, tdx, vm
from appliance.image import build as builds
from appliance.image import inspect as inspections
from appliance.image import lock as locks
from appliance.image.assemble import Signing
from appliance.image.bytecode import HOST
from appliance.image.recipe import ARCHITECTURES, Architecture
from appliance.notary import lab as labs
from attest import console
from attest import launch as launches
from attest.digest import digest_file, digest_of
from attest.durable import write_file
from attest.errors import EnvironmentProblem
from attest.reference import Launch, ReferenceValues, SnpLaunch, TdxLaunch, image_of

app = typer.Typer(help="Lock, build and explain the image that jobs run in.", no_args_is_help=True)
LARGEST = 25

CacheOption = Annotated[
    Path | None, typer.Option(help="The folder that fetched packages are kept in; the user's cache by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, such as images/cpu.toml; its lock lies beside it.")]


@app.command("lock")
def lock_command(recipe: RecipeArgument, cache: CacheOption = None) -> None:
    """Ask apt and the pinned requirements for exact packages, and write the recipe's lock: review what has changed.

    Example:

        appliance image lock images/cpu.toml
    """
    out = locks.path_of(recipe)
    if machine.is_machine(recipe):
        _replace(out, machine.write_lock(vm.make_lock(recipe, progress=_say)))
        console.OUT.print(f"wrote {out}")
        return
    made = builds.make_lock(recipe, cache=cache or default_cache(), progress=_say)
    _replace(out, locks.write(made))
    for architecture, part in made.architectures.items():
        size = sum(item.size_bytes for item in part.files)
        console.OUT.print(f"{architecture}: {len(part.files)} packages, {size} bytes")
    console.OUT.print(f"wrote {out}: {locks.digest(made)}")


@app.command("build")
def build_command(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(help="The image's folder, an OCI image layout; must not exist.")],
    arch: Annotated[Architecture | None, typer.Option(help="amd64 or arm64; this machine's by default.")] = None,
    cache: CacheOption = None,
    engines: Annotated[Path, typer.Option(help="The folder that holds the engines.")] = Path("build/engine"),
    leave_out: Annotated[list[str] | None, typer.Option(help="An optional layer to leave out, such as models.")] = None,
    lab: Annotated[Path | None, typer.Option(help="A lab that signs the provenance, to OUT.provenance.json.")] = None,
    form: Annotated[
        Literal["oci", "uki"], typer.Option("--format", help="oci: an OCI image layout; uki: the measured VM.")
    ] = "oci",
    sign_key: Annotated[
        Path | None, typer.Option(help="With --format uki: sign for Secure Boot with this key, PEM.", metavar="KEY")
    ] = None,
    sign_cert: Annotated[Path | None, typer.Option(help="The certificate of that key, PEM.", metavar="CERT")] = None,
    enrolled: Annotated[
        Path | None, typer.Option(help="The folder of the keys that hosts enrol; the certificate's by default.")
    ] = None,
) -> None:
    """Build an image: the same bytes on any machine, at any time.

    Example:

        appliance image build images/cpu.toml --out build/image/cpu
    """
    if form == "uki":
        machine_ = vm.build_image(
            recipe,
            out,
            cache=cache or default_cache(),
            engines=engines,
            leave_out=tuple(leave_out or ()),
            signing=_signing(sign_key, sign_cert, enrolled),
            progress=_say,
        )
        _show(machine_.values)
        if lab is not None:
            _sign(lab, provenance.machine_statement(machine_), machine_.digest, out)
        return
    if sign_key or sign_cert or enrolled:
        raise EnvironmentProblem("--sign-key, --sign-cert and --enrolled go with --format uki: only it is booted")
    built = builds.build(
        recipe,
        out,
        architecture=arch or _this_machine(),
        cache=cache or default_cache(),
        engines=engines,
        leave_out=tuple(leave_out or ()),
        progress=_say,
    )
    console.OUT.print(built.plan.describe())
    if lab is not None:
        _sign(lab, provenance.statement(built), built.digest, out)
    console.OUT.print(f"image: {out}, {built.digest}")


@app.command("inspect")
def inspect_command(
    folder: Annotated[Path, typer.Argument(help="The image's folder.")],
    files: Annotated[bool, typer.Option("--files", help="Print every file, not only the largest.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check an image to the last file, and explain it: what takes the space, which package, why.

    Example:

        appliance image inspect build/image/cpu
    """
    if inspections.is_machine(folder):
        machine_ = inspections.inspect_machine(folder)
        if as_json:
            console.print_json(machine_.as_json())
            return
        _show(machine_.values)
        _explain(machine_, files)
        return
    found = inspections.inspect(folder)
    if as_json:
        console.print_json(found.as_json())
        return
    config = found.layout.config
    entrypoint = " ".join(config.config.entrypoint)
    console.OUT.print(f"{found.layout.digest}  {config.architecture}  {config.created}")
    console.OUT.print(f"runs {entrypoint} as {config.config.user}; {found.size_bytes:,d} bytes in files")
    _explain(found, files)


@app.command("keys")
def keys_command(
    out: Annotated[Path, typer.Option(help="The folder to make; it will hold secrets.")],
    name: Annotated[str, typer.Option(help="The lab's name, for the certificates.")] = "Vitrine lab",
) -> None:
    """Make a lab's Secure Boot keys: db signs boot files, PK and KEK say who may change what a host starts.

    Example:

        appliance image keys --out lab/secure-boot
    """
    secure_boot.make(out, name)
    for variable in secure_boot.VARIABLES:
        console.OUT.print(f"{variable:<3}  {out / f'{variable}.crt'}  {digest_file(out / f'{variable}.esl')}")
    console.OUT.print(f"keep {out} away from appliances: they need the .esl files only")


@app.command("measure")
def measure_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a measured VM's image.")],
    enrolled: Annotated[
        Path | None, typer.Option(help="The folder of the host's Secure Boot keys; those beside the image by default.")
    ] = None,
    snp_firmware: Annotated[
        Path | None, typer.Option(help="Firmware for AMD SEV-SNP: compute the launch measurement with it as well.")
    ] = None,
    processor: Annotated[str, typer.Option(help="The virtual processors under SEV-SNP, by QEMU's name.")] = "EPYC-v4",
    processors: Annotated[int, typer.Option(min=1, max=512, help="How many of them.")] = 2,
    guest_features: Annotated[
        int, typer.Option(min=1, help="SEV_FEATURES that the host's kernel gives them; 33 with swapped debug state.")
    ] = snp.GUEST_FEATURES,
    tdx_firmware: Annotated[
        Path | None, typer.Option(help="Firmware for Intel TDX: compute the launch measurement (MRTD) with it as well.")
    ] = None,
    tdx_order: Annotated[
        tdx.Order,
        typer.Option(help="Under TDX, what the host's kernel measures at once: Linux 6.16 and later, each page."),
    ] = "page",
    out: Annotated[Path | None, typer.Option(help="Write the values to this file, such as below policy/reference.")] = (
        None
    ),
    as_json: JsonOption = False,
) -> None:
    """Compute what a TPM holds after booting an image, from its files and without a boot: reference values.

    Examples:

        appliance image measure build/vm

        appliance image measure build/vm --snp-firmware OVMF.amdsev.fd --tdx-firmware OVMF.fd --json
    """
    keys = secure_boot.read(enrolled) if enrolled else None
    values = measure.measure(folder, measure.load(folder / measure.REFERENCE).image, keys)
    measured: list[Launch] = []
    if snp_firmware is not None:
        boot_file = folder / measure.BOOT_FILE
        measured.append(
            snp.launch(
                boot_file, snp_firmware, processor=processor, processors=processors, guest_features=guest_features
            )
        )
    if tdx_firmware is not None:
        measured.append(tdx.launch(tdx_firmware, order=tdx_order))
    values = values.model_copy(update={"launches": tuple(measured)})
    if out is not None:
        _replace(out, measure.dump(values))
    if as_json:
        typer.echo(measure.dump(values), nl=False)
        return
    _show(values)


@app.command("unpack")
def unpack_command(
    folder: Annotated[Path, typer.Argument(help="The image's folder.")],
    target: Annotated[Path, typer.Argument(help="The folder to unpack it to; must not exist.")],
) -> None:
    """Check an image and unpack its files, for a runtime that wants a folder.

    Example:

        appliance image unpack build/image/cpu build/image/root
    """
    layout = oci.unpack(folder, target)
    console.OUT.print(f"unpacked {layout.digest} to {target}")


def default_cache() -> Path:
    """The folder that packages are kept in, where none is named."""
    return resources.cache("packages")


def _this_machine() -> Architecture:
    found = HOST.get(os.uname().machine)
    if found is None:
        raise EnvironmentProblem(f"expected --arch, one of {', '.join(ARCHITECTURES)}: this machine is neither")
    return found


def _sign(lab: Path, statement: bytes, digest: str, out: Path) -> None:
    """Have the lab in a folder sign provenance, and write it beside the image."""
    signed = provenance.sign(statement, digest, labs.open_lab(lab, now=lambda: datetime.now(UTC)))
    path = out.with_name(f"{out.name}.provenance.json")
    path.write_bytes(signed)
    console.OUT.print(f"provenance: {path}, {digest_of(signed)}")


def _signing(key: Path | None, certificate: Path | None, enrolled: Path | None) -> Signing | None:
    """What the three options say together."""
    if key is None or certificate is None:
        if key or certificate or enrolled:
            raise EnvironmentProblem("--sign-key and --sign-cert go together, and --enrolled with both")
        return None
    try:
        signer = authenticode.load_signing_key(key.read_bytes(), certificate.read_bytes())
    except OSError as error:
        raise EnvironmentProblem(f"cannot read the signing key: {error}; `appliance image keys` makes one") from None
    return Signing(signer, secure_boot.read(enrolled or certificate.parent))


def _explain(found: inspections.Explained, files: bool) -> None:
    """What takes the space, and why it is there."""
    for space in found.by_layer():
        console.OUT.print(f"  layer   {space.name:<24} {space.files:6d} files {space.size_bytes:14,d} bytes")
    for space in found.by_package():
        console.OUT.print(f"  package {space.name:<24} {space.files:6d} files {space.size_bytes:14,d} bytes")
    largest = found.largest()
    for line in largest if files else largest[:LARGEST]:
        console.OUT.print(f"{line.size_bytes:14,d}  {line.path}\n{'':16}{line.package}: {line.why}")


def _show(values: ReferenceValues) -> None:
    for item in values.files:
        console.OUT.print(f"{item.name:<12} {item.size_bytes:14,d} bytes  {item.digest}")
    for event in values.events:
        console.OUT.print(f"  {event.register_:2d}  {event.digest}  {event.what}")
    for register, value in sorted(values.registers.items(), key=lambda item: int(item[0])):
        console.OUT.print(f"register {register:>2}  {value}")
    for launch in values.launches:
        match launch:
            case SnpLaunch():
                on = f"{launch.processors} x {launch.processor}"
            case TdxLaunch():
                on = f"measured by the {launch.order}; of the firmware alone"
        console.OUT.print(f"{launch.platform}, {on}: {launch.measurement}")
    # What a certificate's identity says of a machine that booted the image. Of a trust domain it says more than follows
    # from the firmware.
    console.OUT.print(f"identity by a TPM   /machine/{image_of(values.registers)}")
    for launch in values.launches:
        if isinstance(launch, SnpLaunch):
            named = launches.image(launch.platform, {"launch": launch.measurement})
            console.OUT.print(f"identity by sev-snp /machine/{named}")


def _replace(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise EnvironmentProblem(f"cannot write {path}: {error.strerror}") from None


def _say(text: str) -> None:
    console.ERR.print(f"image: {text}")
