// Cross checks that the program can be compiled for every platform of releases:
// it checks the types of the program and of all that it imports, as each
// platform has them, and makes no code, which takes a tenth of the time.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			g.Go(func() error {
				began := time.Now()
				n, err := check(ctx, system, arch, os.Args[1:])
				if err != nil {
					return fmt.Errorf("%s/%s: %w", system, arch, err)
				}
				fmt.Printf("%s/%s: %d packages in %.1f s\n", system, arch, n, time.Since(began).Seconds())
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "cross:", err)
		os.Exit(1)
	}
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string
	Standard        bool
	Module          *struct {
		Main      bool
		GoVersion string
	}
	Error *struct{ Err string }
}

// check returns the number of packages that the packages named are made of.
func check(ctx context.Context, system, arch string, names []string) (int, error) {
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-json"}, names...)...)
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+arch)
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return 0, fmt.Errorf("list packages: %w", err)
	}
	known := map[string]*types.Package{"unsafe": types.Unsafe}
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var p listed // after all that it imports
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return len(known), nil
		} else if err != nil {
			return 0, fmt.Errorf("read the list of packages: %w", err)
		}
		if p.Error != nil {
			return 0, errors.New(p.Error.Err)
		}
		if known[p.ImportPath] == nil {
			if known[p.ImportPath], err = p.check(known, arch); err != nil {
				return 0, err
			}
		}
	}
}

// check checks the types of a package: all of ours, the surface of others.
func (p listed) check(known map[string]*types.Package, arch string) (*types.Package, error) {
	ours := p.Module != nil && p.Module.Main
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	config := types.Config{Importer: imports{known, p.ImportMap}, IgnoreFuncBodies: !ours, Sizes: types.SizesFor("gc", arch)}
	if p.Module != nil && p.Module.GoVersion != "" {
		config.GoVersion = "go" + p.Module.GoVersion
	}
	return config.Check(p.ImportPath, set, files, nil)
}

// imports finds what a package imports among what has been checked.
type imports struct {
	known map[string]*types.Package
	names map[string]string // of vendored packages
}

func (i imports) Import(path string) (*types.Package, error) {
	if name, ok := i.names[path]; ok {
		path = name
	}
	if p := i.known[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s has not been listed", path)
}
