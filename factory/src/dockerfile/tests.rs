use super::*;

fn images(text: &str) -> Vec<String> {
    discover(text).unwrap().images
}

fn unresolved(text: &str) -> Vec<(usize, String)> {
    let found = discover(text).unwrap();
    let places = found.unresolved.into_iter();
    places.map(|place| (place.line, place.image)).collect()
}

#[test]
fn keywords_count_in_any_case() {
    assert_eq!(
        images("from node:22 as Build\nFrom Build\nFROM alpine\ncopy --from=BUILD /a /b\n"),
        ["node:22", "alpine"]
    );
}

#[test]
fn comments_and_blank_lines_are_skipped() {
    assert_eq!(
        images(
            "# FROM a\n\n  # FROM b\nFROM \\\n# FROM c\n\n  node:22 \\\n  AS build\nRUN true # FROM d\n"
        ),
        ["node:22"]
    );
}

#[test]
fn the_escape_directive_changes_the_continuation() {
    assert_eq!(
        images(
            "# syntax=docker/dockerfile:1\n# escape=`\nFROM `\n  mcr.microsoft.com/windows:1\nRUN dir C:\\\nFROM b:1\n"
        ),
        ["mcr.microsoft.com/windows:1", "b:1"]
    );
    // Below another comment it is a comment itself.
    assert_eq!(images("# hello\n# escape=`\nFROM \\\n  a:1\n"), ["a:1"]);
    // An escaped escape ends the line.
    assert_eq!(
        images("FROM a:1\nRUN echo \\\\\nFROM b:1\n"),
        ["a:1", "b:1"]
    );
    assert_eq!(discover("# escape=x\nFROM a\n").unwrap_err().line, 1);
}

#[test]
fn heredoc_bodies_are_no_instructions() {
    for text in [
        "FROM a:1\nRUN <<EOF\nFROM x\nEOF\nFROM b:1\n",
        "FROM a:1\nRUN cat <<EOF > /f && echo\nFROM x\nEOF\nFROM b:1\n",
        "FROM a:1\nRUN <<'E F'\nFROM x\nE F\nRUN <<'EOF'\n$FROM x\nEOF\nFROM b:1\n",
        "FROM a:1\nCOPY <<one <<\"two\" /\nFROM x\none\nFROM y\ntwo\nFROM b:1\n",
        "FROM a:1\nRUN <<-EOF\n\tFROM x\n\t\tEOF\nFROM b:1\n",
        "FROM a:1\nRUN 3<<EOF cat\nFROM x\nEOF\nFROM b:1\n",
        "FROM a:1\nONBUILD RUN <<EOF\nFROM x\nEOF\nFROM b:1\n",
    ] {
        assert_eq!(images(text), ["a:1", "b:1"], "{text}");
    }
}

#[test]
fn what_only_looks_like_a_heredoc_is_none() {
    for text in [
        "FROM a:1\nRUN [\"sh\", \"-c\", \"cat <<EOF\"]\nFROM b:1\n",
        "FROM a:1\nRUN echo $((1<<2))\nFROM b:1\n",
        "FROM a:1\nRUN echo \"<<EOF\"\nFROM b:1\n",
        "FROM a:1\nRUN grep x <<<word\nFROM b:1\n",
        "FROM a:1\nCMD cat <<EOF\nFROM b:1\n",
    ] {
        assert_eq!(images(text), ["a:1", "b:1"], "{text}");
    }
}

#[test]
fn arguments_before_the_first_from_are_replaced() {
    for (text, image) in [
        ("ARG V=22\nFROM node:$V\n", "node:22"),
        ("ARG V=22\nFROM node:${V}-slim\n", "node:22-slim"),
        ("ARG V\nFROM node:${V:-20}\n", "node:20"),
        ("ARG V=\nFROM node:${V:-20}\n", "node:20"),
        ("FROM node:${V-20}\n", "node:20"),
        ("ARG V=22\nFROM node:${V:-20}\n", "node:22"),
        ("ARG V=22\nFROM node${V:+:lts}\n", "node:lts"),
        ("FROM node${V:+:lts}\n", "node"),
        ("ARG A=2 B=${A}2\nFROM node:$B\n", "node:22"),
        ("ARG I=\"node\" T='22'\nFROM \"$I:$T\"\n", "node:22"),
        ("ARG A=1\nARG A=2\nFROM n:$A\n", "n:2"),
        ("ARG B=x\nFROM n:${A:-${B:-y}}\n", "n:x"),
        (
            "ARG R=ghcr.io/o\nFROM $R/n:1@sha256:0000000000000000000000000000000000000000000000000000000000000000\n",
            "ghcr.io/o/n:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ),
    ] {
        assert_eq!(images(text), [image], "{text}");
    }
}

#[test]
fn an_argument_of_a_stage_is_not_global() {
    let text = "FROM a:1\nARG V=22\nFROM node:$V\n";
    assert_eq!(images(text), ["a:1"]);
    assert_eq!(unresolved(text), [(3, "node:$V".to_owned())]);
}

#[test]
fn an_argument_without_value_is_listed_with_its_line_and_is_no_image() {
    let text = "ARG V\n\nFROM node:${V}\nFROM ${B%x}\nCOPY --from=$V /a /b\n";
    assert_eq!(images(text), [] as [&str; 0]);
    let places = [(3, "node:${V}"), (4, "${B%x}"), (5, "$V")];
    assert_eq!(unresolved(text), places.map(|(l, i)| (l, i.to_owned())));
    let reasons = discover(text).unwrap().unresolved;
    assert_eq!(reasons[0].reason, "the build argument V has no default");
    assert_eq!(reasons[1].reason, "${B%x} is not understood");
}

#[test]
fn an_argument_that_makes_no_image_is_left_open() {
    assert_eq!(
        unresolved("ARG V=\nFROM node:$V\n"),
        [(2, "node:$V".to_owned())]
    );
}

#[test]
fn platforms_are_skipped_and_stages_and_scratch_are_no_images() {
    assert_eq!(
        images(
            "FROM --platform=$BUILDPLATFORM golang:1.25 AS build\nFROM scratch\nFROM build\nCOPY --from=build a b\nCOPY --from=0 a b\n"
        ),
        ["golang:1.25"]
    );
}

#[test]
fn a_stage_counts_only_after_its_from() {
    assert_eq!(
        images("FROM later\nFROM a:1 AS later\nFROM later\n"),
        ["later", "a:1"]
    );
}

#[test]
fn copies_and_mounts_from_images_are_inputs() {
    let text = "FROM a:1 AS build\n\
                COPY --chown=1 --from=ghcr.io/astral-sh/uv:0.9 /uv /bin/\n\
                RUN --mount=type=cache,target=/c --mount=type=bind,from=busybox:1,target=/b ls\n\
                RUN --mount=from=build,target=/b --mount=type=bind,from=1,target=/c ls\n\
                COPY --from=Later / /\n\
                COPY --from=Context / /\n\
                FROM a:1 AS later\n";
    assert_eq!(
        images(text),
        ["a:1", "ghcr.io/astral-sh/uv:0.9", "busybox:1"]
    );
    assert_eq!(unresolved(text), [(6, "Context".to_owned())]);
}

#[test]
fn each_image_is_listed_once_however_it_is_written() {
    assert_eq!(
        images("FROM node\nFROM docker.io/library/node:latest\nFROM node:22\nFROM node\n"),
        ["node", "node:22"]
    );
}

#[test]
fn what_is_no_dockerfile_says_where() {
    for (text, line, words) in [
        ("", 1, "no FROM"),
        ("# only this\n", 1, "no FROM"),
        ("ARG A\n", 1, "no FROM"),
        ("FROM a\nHello there\n", 2, "Hello is no instruction"),
        ("RUN x\nFROM a\n", 1, "before the first FROM"),
        ("FROM a\n\nFROM a b\n", 3, "FROM takes"),
        ("FROM\n", 1, "FROM takes"),
        ("FROM Node:22\n", 1, "upper-case"),
        ("FROM https://x/y\n", 1, "URL"),
        ("FROM a\nRUN <<EOF\nFROM x\n", 2, "does not end"),
    ] {
        let found = discover(text).unwrap_err();
        assert_eq!(found.line, line, "{text}");
        assert!(found.message.contains(words), "{text}: {}", found.message);
    }
}

#[test]
fn lines_may_end_as_on_windows() {
    assert_eq!(
        images("FROM a:1 \\\r\n  AS b\r\nFROM b\r\nRUN <<E\r\nFROM x\r\nE\r\n"),
        ["a:1"]
    );
}
