"""Errors for people. Everything else that is raised is a bug and shows its traceback."""


class UserError(Exception):
    """A problem that a person caused or can cure: one line for the problem, one for the cure.

    Only ``cli.main`` prints it; the command ends with exit code 1.
    """

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()
