"""The crash test: kill everything, at any instant and at every named step; then count what was lost or doubled.

    python3 nanoclaw.py crash [--kills 1000] [--seed N] [--engine] [--plant NAME]   # or python -m tests.crash

A home with four chats (main, two groups and one on a Telegram of loopback, which takes no keys), its real host, real
containers and the real SDK; only the model is scripted. While messages, follow-ups, agents' and scripts' requests
come in without a pause (``scene``), the host is killed again and again (``kills``): by SIGKILL at random instants, by
SIGTERM, by itself at each step of ``nanoclaw.faults``, in the moment in which Telegram has taken a message, and its
containers are killed, too, with a host and without one; with ``--engine`` the engine as well. The first half is under
``on_uncertain = "resend"``, the second under "hold". Then a host that nobody disturbs works off what is left, and
``audit`` compares what was put with transcripts, claims, outbox, far sides and journal (``outgoing``: what went where
no key is taken, and who was told). ``plants`` are hosts with a bug: the test must find each.

A seed repeats the order of the kills, not their instants: no two runs meet the same race.
"""
