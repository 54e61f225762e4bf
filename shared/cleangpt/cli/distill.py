"""`cleangpt distill`: fits a student to a teacher on a text, or a shadow to a trunk."""

from cleangpt.cli.distill_options import DistillOptions
from cleangpt.cli.options import command


def run(options: DistillOptions) -> None:
    """If it is killed, run the same command again to resume."""
    # import torch and transformers late, so that --help is quick
    import torch

    from cleangpt.cli.distilling import distil_shadow, distil_student
    from cleangpt.cli.environment import environment
    from cleangpt.cli.recording import RecordRun
    from cleangpt.cli.repeating import RepeatDistillation
    from cleangpt.distillation.distillation_trainer import STUDENT_FOLDER
    from cleangpt.distillation.shadow_trainer import SHADOW_FOLDER
    from cleangpt.distillation.stage import of_all_stages
    from cleangpt.model.device import device_of
    from cleangpt.trainers.processes import Processes

    repeat = RepeatDistillation(options, options.from_run) if options.from_run is not None else None
    distil, results, device = distil_student, STUDENT_FOLDER, device_of(options.device)
    if options.shadow:
        distil, results, device = distil_shadow, SHADOW_FOLDER, torch.device("cpu")
    recording = RecordRun(
        "distill", options, environment(device, Processes()), results=results, made_from=of_all_stages
    )
    distil(options, [recording] if repeat is None else [repeat, recording])
    recording.finish()
    if repeat is not None:
        print(repeat.result())


distill = command(DistillOptions, run)
distill.__doc__ = run.__doc__
