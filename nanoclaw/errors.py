"""Errors for people. Everything else that is raised is a bug and shows its traceback."""


class UserError(Exception):
    """A problem that a person caused or can cure: one line for the problem, one for the cure.

    Only ``cli.main`` prints it. ``exit_code`` is the exit status of the command that it ends.
    """

    def __init__(self, problem: str, fix: str = "", exit_code: int = 1) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()
