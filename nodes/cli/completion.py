"""Completion of commands and options for bash, zsh or fish.

bash:  source <(swarm completion bash)              # in ~/.bashrc
zsh:   source <(swarm completion zsh)               # in ~/.zshrc, after compinit
fish:  swarm completion fish | source               # in ~/.config/fish/config.fish
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Final

from swarm.exit_codes import ExitCode

# The shells ask the program itself, so what they offer is what it takes; where it has nothing they complete file names.
SCRIPTS: Final = {
    "bash": """\
_swarm() {
    local IFS=$'\\n'
    COMPREPLY=($(swarm __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -o bashdefault -F _swarm swarm
""",
    "zsh": """\
#compdef swarm
_swarm() {
    local -a found
    found=("${(@f)$(swarm __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})
    if (( $#found )); then compadd -- $found; else _files; fi
}
compdef _swarm swarm
""",
    "fish": """\
function __swarm_complete
    set -l words (commandline -opc) (commandline -ct)
    swarm __complete $words[2..-1] 2>/dev/null
end
complete -c swarm -a '(__swarm_complete)'
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `swarm completion`."""
    parser.add_argument("shell", choices=sorted(SCRIPTS))


def run(args: argparse.Namespace) -> int:
    """Print the script for a shell."""
    print(SCRIPTS[args.shell], end="")
    return ExitCode.OK


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of ``words`` (those after ``swarm``) can become; empty: whatever the shell thinks of."""
    from nodes.cli.command_line import VERBS, parser_of

    *before, current = words or [""]
    if "--" in before:
        return []
    verb = next((word for word in before if not word.startswith("-")), None)
    if verb is None:
        return _beginning(current, (*VERBS, "--help", "--version"))
    if verb not in VERBS:
        return []
    parser: argparse.ArgumentParser = parser_of(verb)
    rest = list(before[before.index(verb) + 1 :])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = next((word for word in rest if word in action.choices), None)
            if chosen is None and not current.startswith("-"):
                return _beginning(current, list(action.choices))
            if chosen is not None:
                parser = action.choices[chosen]
                rest = rest[rest.index(chosen) + 1 :]
    options = {flag: action for action in parser._actions for flag in action.option_strings}
    if rest and (waiting := options.get(rest[-1])) is not None and waiting.nargs != 0:
        return _beginning(current, [str(choice) for choice in waiting.choices or ()])
    if current.startswith("-"):
        return _beginning(current, [flag for flag in options if flag.startswith("--")])
    return _beginning(current, _choices(parser))


def _choices(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if not action.option_strings and action.choices and not isinstance(action, argparse._SubParsersAction):
            yield from map(str, action.choices)


def _beginning(start: str, words: Sequence[str] | Iterator[str]) -> list[str]:
    return sorted(word for word in words if word.startswith(start))
