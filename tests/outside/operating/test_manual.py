"""The manual, the manual page and completions: read by the tools that people read them with."""

import json
import re
import shutil

import pytest
from helpers.process import BINARY, ROOT, environment, oneloop, run


def printed(*arguments):
    done = oneloop(*arguments)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout


def settings_of_help():
    return set(re.findall(r"^  (--[\w-]+)  ", printed("--help"), re.MULTILINE))


CHAPTERS = sorted(path.stem for path in (ROOT / "src/manual").glob("*.md") if not path.stem.endswith("_table"))


@pytest.mark.parametrize("topic", CHAPTERS)
def test_help_prints_the_chapter_of_a_topic(topic):
    folder = ROOT / "src/manual"
    table = folder / f"{topic}_table.md"
    chapter = (folder / f"{topic}.md").read_text() + (table.read_text() if table.exists() else "")
    assert printed("help", topic) == chapter


def test_help_lists_its_topics_and_names_the_nearest_one():
    assert printed("help") == printed("--help") == printed("help", "token")
    topics = printed("help").split("`oneloop help TOPIC`:\n")[1].split("\n\n")[0]
    assert sorted(line.split()[0] for line in topics.splitlines()) == CHAPTERS
    done = oneloop("help", "strems")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean streams?" in done.stderr
    assert all(topic in done.stderr for topic in CHAPTERS)


def test_man_shows_the_page_and_warns_of_nothing(tmp_path):
    page = tmp_path / "oneloop.1"
    page.write_text(printed("man"))
    variables = {"MANWIDTH": "100", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""}
    shown = run("man", "--warnings", "-E", "UTF-8", "-l", page, env=environment(**variables))
    assert (shown.returncode, shown.stderr) == (0, "")
    text = re.sub(r".\x08|\x1b\[[\d;]*m", "", shown.stdout)
    assert "oneloop token --sub 42 [--topics a,b]" in text
    for flag in settings_of_help():
        assert f"{flag}, ONELOOP_" in text, flag
    for part in (*CHAPTERS, "EXIT STATUS", "SIGHUP", "NOTIFY_SOCKET", "Default: 127.0.0.1:8099."):
        assert part in text, part


def test_groff_finds_no_fault_in_the_page(tmp_path):
    page = tmp_path / "oneloop.1"
    page.write_text(printed("man"))
    done = run("groff", "-man", "-ww", "-Tutf8", "-z", page)
    assert (done.returncode, done.stderr) == (0, "")


CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", CHECKS)
def test_the_shell_reads_what_it_is_to_complete(shell, tmp_path):
    file = tmp_path / "completions"
    file.write_text(printed("completions", shell))
    done = run(*CHECKS[shell], file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def complete_in_bash(*words):
    """Bash's completions for the last of these words."""
    script = """
        source /dev/stdin <<< "$(%s completions bash)"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _oneloop; printf '%%s\\n' "${COMPREPLY[@]}"
    """ % json.dumps(BINARY)
    done = run("bash", "-c", script, "bash", "oneloop", *words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return set(done.stdout.split())


def complete_in_fish(*words):
    script = f"{BINARY} completions fish | source; complete -C 'oneloop {' '.join(words)}'"
    done = run("fish", "--no-config", "-c", script, env=environment(HOME="/nonexistent"))
    assert done.returncode == 0, done.stderr
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


def complete_in_zsh(*words):
    """zsh completes in a terminal only: its function is called with stand-ins for what it calls."""
    script = f"""
        compdef() {{ : }}
        _describe() {{ print -rl -- "${{(@P)2}}" }}
        _arguments() {{ shift; print -rl -- "$@" }}
        eval "$({BINARY} completions zsh)"
        words=(oneloop "$@") CURRENT=$#words
        _oneloop
    """
    done = run("zsh", "-f", "-c", script, "zsh", *words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    found = {re.split(r"[\[:]", line)[0] for line in done.stdout.splitlines()}
    return {word for word in found if word.startswith(words[-1])}


COMPLETERS = {"bash": complete_in_bash, "fish": complete_in_fish, "zsh": complete_in_zsh}


@pytest.mark.parametrize("shell", COMPLETERS)
def test_commands_and_flags_are_completed(shell):
    assert shutil.which(shell), "tests/run installs it"
    complete = COMPLETERS[shell]
    assert {"token", "top"} <= complete("to")
    assert complete("expl") >= {"explain"} and "token" not in complete("expl")
    assert complete("token", "--tt") == {"--ttl"}
    assert complete("serve", "--ch") == {"--check"} == complete("--ch")
    assert complete("--tt") == set(), "that is a flag of token"
    assert complete("dashboard", "--lis") == set(), "it takes no settings"
    assert {flag for flag in complete("serve", "--") if flag in settings_of_help()} == settings_of_help()


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_values_are_completed_where_they_are_words(shell):
    complete = COMPLETERS[shell]
    assert complete("--format", "") == {"json", "raw"}
    assert complete("serve", "--slow", "k") == {"keep-newest"}
    assert complete("completions", "b") == {"bash"}
    assert complete("help", "s") == {"security", "settings", "sse", "streams"}
