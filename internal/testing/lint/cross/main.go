// Cross checks that the program compiles for each platform of a release. For each platform, it
// checks the types of the program and of all imported packages. It generates no code, so it takes
// about a tenth of the time of a build. Of the standard library it checks only the declarations,
// because Go's own releases have compiled the function bodies.
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
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, ".", os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cross:", err)
		os.Exit(1)
	}
}

// run checks packages for every platform. The packages are named as for "go build" in the directory
// dir. The error joins the errors of all platforms.
func run(ctx context.Context, dir string, names []string, out io.Writer) error {
	var platforms []platform
	s := newSources()
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			platforms = append(platforms, platform{system: system, arch: arch, sources: s})
		}
	}
	problems := make([]error, len(platforms))
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	var printing sync.Mutex
	began := time.Now()
	for i, p := range platforms {
		g.Go(func() error {
			n, err := p.check(ctx, dir, names)
			if err != nil {
				problems[i] = fmt.Errorf("%s/%s: %w", p.system, p.arch, err)
				return nil
			}
			printing.Lock()
			defer printing.Unlock()
			fmt.Fprintf(out, "%s/%s: %d packages, after %.1f s\n", p.system, p.arch, n, time.Since(began).Seconds())
			return nil
		})
	}
	_ = g.Wait() // always nil: the errors are in problems
	return errors.Join(problems...)
}

// platform is a platform for which the program is compiled.
type platform struct {
	system, arch string
	sources      *sources
}

// listed is a package in the output of "go list".
type listed struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string
	Standard        bool
	Module          *struct{ GoVersion string }
	Error           *struct{ Err string }
}

// check checks the packages and all packages that they import, and returns the number of checked
// packages.
func (p platform) check(ctx context.Context, dir string, names []string) (int, error) {
	const members = "ImportPath,Dir,GoFiles,ImportMap,Standard,Module,Error"
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-json=" + members}, names...)...)
	list.Dir = dir
	list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.system, "GOARCH="+p.arch)
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return 0, fmt.Errorf("list packages: %w", err)
	}
	known := map[string]*types.Package{"unsafe": types.Unsafe}
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var l listed // go list prints a package after all packages that it imports
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			return len(known), nil
		} else if err != nil {
			return 0, fmt.Errorf("read the list of packages: %w", err)
		}
		if l.Error != nil {
			return 0, errors.New(l.Error.Err)
		}
		if known[l.ImportPath] == nil {
			if known[l.ImportPath], err = p.checkOne(l, known); err != nil {
				return 0, err
			}
		}
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
	}
}

// checkOne checks the types of a package. All packages that it imports must be in known.
func (p platform) checkOne(l listed, known map[string]*types.Package) (*types.Package, error) {
	var files []*ast.File
	for _, name := range l.GoFiles {
		file, err := p.sources.file(filepath.Join(l.Dir, name), !l.Standard)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	config := types.Config{Importer: imports{known, l.ImportMap}, IgnoreFuncBodies: l.Standard, Sizes: types.SizesFor("gc", p.arch)}
	if l.Module != nil && l.Module.GoVersion != "" {
		config.GoVersion = "go" + l.Module.GoVersion
	}
	return config.Check(l.ImportPath, p.sources.set, files, nil)
}

// imports provides imported packages. It takes them from the packages that have been checked.
type imports struct {
	known map[string]*types.Package
	names map[string]string // maps import paths to vendored packages
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

// sources caches parsed files, so that each file is parsed once for all platforms.
type sources struct {
	set   *token.FileSet
	mu    sync.Mutex
	files map[string]func() (*ast.File, error) // parse functions by path; guarded by mu
}

func newSources() *sources {
	return &sources{set: token.NewFileSet(), files: make(map[string]func() (*ast.File, error))}
}

// file returns a parsed file, with or without the bodies of its functions. Callers must not modify
// the result.
func (s *sources) file(path string, bodies bool) (*ast.File, error) {
	s.mu.Lock()
	parsed := s.files[path]
	if parsed == nil {
		parsed = sync.OnceValues(func() (*ast.File, error) { return s.parse(path, bodies) })
		s.files[path] = parsed
	}
	s.mu.Unlock()
	return parsed()
}

func (s *sources) parse(path string, bodies bool) (*ast.File, error) {
	file, err := parser.ParseFile(s.set, path, nil, parser.SkipObjectResolution)
	if err != nil || bodies {
		return file, err
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
			f.Body.List = nil // bodies need most of the memory
		}
	}
	return file, nil
}
