// Package lint holds the rules of the code's structure as tests: the direction of imports, access
// to the process around the program, and constructs that it must not have.
package lint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Package is a package as the Go tool lists it.
type Package struct {
	ImportPath string
	Imports    []string // direct ones, without those of tests
	Deps       []string // all, transitively
	DepsErrors []struct{ Err string }
}

// Packages lists the packages of the module whose root is dir.
func Packages(ctx context.Context, dir string) ([]Package, error) {
	list := exec.CommandContext(ctx, "go", "list", "-e", "-buildvcs=false", "-json=ImportPath,Imports,Deps,DepsErrors", "./...")
	list.Dir = dir
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w: %s", err, stderr.String())
	}
	var packages []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("list the packages: %w", err)
		}
		packages = append(packages, p)
	}
}

// Rule limits the imports of the packages that Package matches. Patterns name packages of the
// module by their path below internal, and others by their import path. A pattern with /... at its
// end also matches everything below; with /+ it matches only packages below.
type Rule struct {
	Package string
	// Only lists the packages of the module that it may import directly. Nil allows all packages
	// that Never and NeverDirectly do not exclude.
	Only []string
	// Never lists packages that it may not depend on in any way.
	Never []string
	// NeverDirectly lists packages that it may not import directly.
	NeverDirectly []string
}

// CheckImports returns one line for each import that breaks a rule, and for each package below
// internal without a rule. The first rule that matches a package applies to it: special rules come
// before general ones.
func CheckImports(module string, packages []Package, rules []Rule) []string {
	var problems []string
	internal := module + "/internal/"
	for _, p := range packages {
		if len(p.DepsErrors) > 0 {
			problems = append(problems, fmt.Sprintf("%s can't be loaded: %s", p.ImportPath, p.DepsErrors[0].Err))
		}
		name, ok := strings.CutPrefix(p.ImportPath, internal)
		if !ok {
			continue
		}
		i := slices.IndexFunc(rules, func(r Rule) bool { return matches(r.Package, name) })
		if i < 0 {
			problems = append(problems, fmt.Sprintf("%s has no place among the import rules: give it one in internal/testing/lint", name))
			continue
		}
		problems = append(problems, rules[i].check(internal, name, p)...)
	}
	return problems
}

func (r Rule) check(internal, name string, p Package) []string {
	var problems []string
	report := func(dependency, how string) {
		problems = append(problems, fmt.Sprintf("%s may not %s %s", name, how, dependency))
	}
	for _, path := range p.Imports {
		dependency, ours := strings.CutPrefix(path, internal)
		if ours && r.Only != nil && !matchesAny(r.Only, dependency) {
			report(dependency, "import")
		}
		if matchesAny(r.NeverDirectly, dependency) {
			report(dependency, "itself import")
		}
	}
	for _, path := range p.Deps {
		if dependency := strings.TrimPrefix(path, internal); matchesAny(r.Never, dependency) {
			report(dependency, "depend on")
		}
	}
	return problems
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

func matches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == prefix || strings.HasPrefix(name, prefix+"/")
	}
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == pattern
}
