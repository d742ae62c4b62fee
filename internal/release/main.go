// Release builds the archives of a release: for each platform one that holds the
// program, its licence and its manual, and a file of their SHA-256 sums. Building
// the same sources twice gives the same bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	version := flags.String("version", "", "the version, without a leading v")
	dir := flags.String("out", "dist", "the directory to write to; what is in it is deleted")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version == "" {
		return errors.New("-version is missing")
	}
	if err := os.RemoveAll(*dir); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "eds-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for _, p := range platforms() {
		program := filepath.Join(scratch, p.program())
		if err := compile(ctx, p, *version, program); err != nil {
			return err
		}
		archive := filepath.Join(*dir, p.archive())
		if err := pack(archive, []string{program, "LICENSE", "README.md"}); err != nil {
			return fmt.Errorf("pack %s: %w", p.archive(), err)
		}
		fmt.Fprintln(out, archive)
	}
	return writeSums(*dir)
}

// platform is what a program is built for.
type platform struct{ os, arch string }

// platforms returns those that releases are built for.
func platforms() []platform {
	var all []platform
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			all = append(all, platform{system, arch})
		}
	}
	return all
}

// program returns the name of the program's file.
func (p platform) program() string {
	if p.os == "windows" {
		return "eds.exe"
	}
	return "eds"
}

// archive returns the name under which a running eds looks for its successor:
// the system capitalised, the machine as uname -m names it.
func (p platform) archive() string {
	systems := map[string]string{"linux": "Linux", "darwin": "Darwin", "windows": "Windows"}
	machines := map[string]string{"amd64": "x86_64", "arm64": "arm64"}
	suffix := ".tar.gz"
	if p.os == "windows" {
		suffix = ".zip"
	}
	return "eds_" + systems[p.os] + "_" + machines[p.arch] + suffix
}

// compile builds the program without C, so that it is one static file.
func compile(ctx context.Context, p platform, version, to string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath",
		"-ldflags", "-s -w -X github.com/shopmonkeyus/eds/internal/cli.version="+version, "-o", to, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.os, "GOARCH="+p.arch)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build for %s/%s: %w\n%s", p.os, p.arch, err, out)
	}
	return nil
}
