"""From what a build is asked for to its plan: the images it needs are resolved meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import DockerfileError
from assembler.events import Sink, Warned
from assembler.images import Images
from assembler.plan.graph import COMMON_IMAGES
from assembler.plan.make import PlanRequest, examine, make, needs, time_source
from assembler.plan.plan import Plan, PlanWarning
from assembler.plan.resolution import Need
from assembler.plan.resolved import ResolvedImage
from assembler.remotes import Remotes
from assembler.request import BuildRequest, each_platform, plan_request
from assembler.values import replace


class Planner:
    """Plans builds, of the images that `images` finds."""

    def __init__(
        self, images: Images, remotes: Remotes, sink: Sink, clock: Callable[[], float]
    ) -> None:
        self._images = images
        self._remotes = remotes
        self._sink = sink
        self._clock = clock

    def plan(self, request: BuildRequest, *, offline: bool = False) -> Plan:
        """The plan, every image it needs resolved by the store or a registry, for all platforms.

        With `offline` no registry is asked, and what the store lacks is the plan's `missing`; no
        time is asked for then either (rule T1). Raises DockerfileError, RegistryError.
        """
        self._warn_of_stages(request)
        plans = [self._planned(one, offline) for one in each_platform(request)]
        if not request.indexed:
            return plans[0]
        from assembler.plan.several import merged

        return merged(plans, alone=len(request.dockerfile.stages) == 1)

    def _planned(self, request: BuildRequest, offline: bool) -> Plan:
        asked = plan_request(request)
        if not offline:
            asked = self._timed(asked)
        return make(asked, self.resolved(request, asked, offline=offline))

    def _warn_of_stages(self, request: BuildRequest) -> None:
        """Tell of names in `no_cache` that no stage has (rule S12)."""
        stages = request.dockerfile.stages
        names = [stage.name or str(stage.index) for stage in stages]
        for name in sorted(request.no_cache - {"*", *names}):
            meant = did_you_mean(name, names)
            message = f"--no-cache-filter {name}: the Dockerfile has no such stage{meant}"
            self._sink(Warned(message, self._clock()))

    def examine(
        self, request: BuildRequest, error: DockerfileError | None, *, offline: bool = False
    ) -> tuple[tuple[PlanWarning, ...], DockerfileError | None]:
        """What lint says about the Dockerfile, of every stage where no target is named, and what
        keeps it from being built, for any platform. `error` is the parser's, where there was one."""
        found: dict[PlanWarning, None] = {}
        for one in each_platform(request):
            asked = plan_request(one, every_stage=not one.target)
            resolved: dict[str, ResolvedImage] = {}
            if error is None:
                with suppress(DockerfileError):  # `examine` meets it too, with what was before it
                    resolved = self.resolved(one, asked, offline=offline, lenient=True)
            warnings, error = examine(asked, resolved, error)
            found |= dict.fromkeys(warnings)
            if error is not None:
                break
        return tuple(found), error

    def _timed(self, asked: PlanRequest) -> PlanRequest:
        """`asked` with the time of the stage that SOURCE_DATE_EPOCH names, if it names one; what
        that stage fetches is fetched (rule T1)."""
        wanted = time_source(asked)
        if wanted is None:
            return asked
        # the only name that is looked up then: asking for the others would fetch them
        return replace(asked, epochs={wanted.name: self._remotes.epoch(wanted.source)})

    def resolved(
        self,
        request: BuildRequest,
        asked: PlanRequest,
        *,
        offline: bool = False,
        lenient: bool = False,
    ) -> dict[str, ResolvedImage]:
        """The images that `asked`, made from `request`, needs, by their needs' keys; see `plan`.

        With `lenient`, what a registry does not give is left out with a warning.
        """
        resolved: dict[str, ResolvedImage] = {}
        unknown: set[str] = set()
        while missing := [need for need in needs(asked, resolved) if need.key not in unknown]:
            for need in missing:
                found = self._found(need, request, offline, lenient)
                if found is None:
                    unknown.add(need.key)
                else:
                    resolved[need.key] = found
        return resolved

    def checked(self, plan: Plan) -> Plan:
        """`plan`, its warnings told. Raises DockerfileError where lint is an error (rule D7)."""
        for warning in plan.warnings:
            self._sink(Warned(warning.message, self._clock(), warning.rule, warning.span))
        if plan.violations:
            raise DockerfileError(
                f"lint violation found for rules: {', '.join(plan.violations)}",
                hint="mend them, or leave error=true out of the check directive",
            )
        return plan

    def _found(
        self, need: Need, request: BuildRequest, offline: bool, lenient: bool
    ) -> ResolvedImage | None:
        if offline:
            return self._images.known(need.image, need.platform, exact=need.exact, short=need.short)
        try:
            return self._resolve(need, request)
        except DockerfileError as error:
            if not lenient:
                raise
            self._sink(Warned(error.message, self._clock(), span=error.span))
            return None

    def _resolve(self, need: Need, request: BuildRequest) -> ResolvedImage:
        try:
            return self._images.resolve(
                need.image,
                need.platform,
                pull=request.pull,
                span=need.span,
                exact=need.exact,
                short=need.short,
            )
        except DockerfileError as error:
            # A misspelt stage is taken for an image (rules S7, S15): say what was meant.
            stages = [stage.name for stage in request.dockerfile.stages if stage.name]
            suggestion = did_you_mean(need.span.word, (*stages, *COMMON_IMAGES))
            message = f"{error.message}{suggestion}"
            raise DockerfileError(message, error.span, hint=error.hint) from error
