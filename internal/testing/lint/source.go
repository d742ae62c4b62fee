package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// File is a parsed Go file.
type File struct {
	Path string // slash-separated path relative to the module's root
	AST  *ast.File
	set  *token.FileSet
}

// Files parses all Go files of the module, whatever their build constraints. It skips directories
// that the go command ignores.
func Files(root fs.FS) ([]File, error) {
	var files []File
	set := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != "." && (base == "testdata" || base == "vendor" || base[0] == '.' || base[0] == '_') {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, File{name, parsed, set})
		return nil
	})
	return files, err
}

// Test reports whether the file is a test file.
func (f File) Test() bool { return strings.HasSuffix(f.Path, "_test.go") }

// beside reports whether the file is not part of the program. Such a file belongs to a test, to a
// package for tests, or to a program for the build.
func (f File) beside() bool {
	dir := path.Dir(f.Path)
	return f.Test() || strings.HasSuffix(dir, "test") || strings.HasPrefix(f.Path, "test/") ||
		within(dir, "internal/testing")
}

func within(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

// At returns the position of a node as file:line.
func (f File) At(n ast.Node) string {
	p := f.set.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// imported returns the name by which the file refers to an imported package, or "" if it does not
// import the package.
func (f File) imported(importPath string) string {
	for _, spec := range f.AST.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err != nil || p != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// uses finds all references to members of an imported package, and calls visit for each reference.
func (f File) uses(importPath string, visit func(n ast.Node, member string)) {
	name := f.imported(importPath)
	if name == "" {
		return
	}
	ast.Inspect(f.AST, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		// An identifier with an object is declared in the file, so it is not the package.
		if id, ok := selector.X.(*ast.Ident); ok && id.Name == name && id.Obj == nil {
			visit(selector, selector.Sel.Name)
		}
		return true
	})
}

// process returns the names that only the command line may use, by package.
func process() map[string][]string {
	return map[string][]string{
		"os": {
			"Args", "Getenv", "LookupEnv", "Environ", "ExpandEnv", "Expand", "Setenv", "Unsetenv", "Clearenv", "Stdin",
			"Stdout", "Stderr",
		},
		"fmt":     {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
		"syscall": {"Getenv", "Environ", "Stdin", "Stdout", "Stderr"},
	}
}

// CheckProcess returns one line for each use of the arguments, the environment, standard input or
// standard output outside internal/cli.
func CheckProcess(files []File) []string {
	var problems []string
	for _, f := range files {
		if f.beside() || within(path.Dir(f.Path), "internal/cli") {
			continue
		}
		for importPath, members := range process() {
			f.uses(importPath, func(n ast.Node, member string) {
				if slices.Contains(members, member) {
					problems = append(problems, fmt.Sprintf("%s: only internal/cli may use %s.%s", f.At(n), importPath, member))
				}
			})
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok && id.Obj == nil && (id.Name == "print" || id.Name == "println") {
					problems = append(problems, fmt.Sprintf("%s: only internal/cli may print", f.At(n)))
				}
			}
			return true
		})
	}
	slices.Sort(problems)
	return problems
}

// CheckExits returns one line for each call that ends the process, except calls of os.Exit in
// main.go and in tests.
func CheckExits(files []File) []string {
	var problems []string
	for _, f := range files {
		program := f.AST.Name.Name == "main" && path.Base(f.Path) == "main.go"
		f.uses("os", func(n ast.Node, member string) {
			if member == "Exit" && !program && !f.Test() {
				problems = append(problems, fmt.Sprintf("%s: only main.go may call os.Exit", f.At(n)))
			}
		})
		f.uses("syscall", func(n ast.Node, member string) {
			if member == "Exit" {
				problems = append(problems, fmt.Sprintf("%s: only main.go may end the process", f.At(n)))
			}
		})
		f.uses("log", func(n ast.Node, member string) {
			if strings.HasPrefix(member, "Fatal") || strings.HasPrefix(member, "Panic") {
				problems = append(problems, fmt.Sprintf("%s: log.%s ends the process; return an error", f.At(n), member))
			}
		})
	}
	return problems
}

// CheckSleeps returns one line for each call of time.Sleep. Test files that import testing/synctest
// may sleep, because time does not really pass in them.
func CheckSleeps(files []File) []string {
	var problems []string
	for _, f := range files {
		if f.Test() && f.imported("testing/synctest") != "" {
			continue
		}
		f.uses("time", func(n ast.Node, member string) {
			if member == "Sleep" {
				problems = append(problems, fmt.Sprintf("%s: nothing sleeps; wait for the condition", f.At(n)))
			}
		})
	}
	return problems
}

// CheckNames returns one line for each package whose name says nothing about its purpose, such as
// util.
func CheckNames(files []File) []string {
	vague := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base", "lib", "types"}
	seen := make(map[string]bool)
	var problems []string
	for _, f := range files {
		name := strings.TrimSuffix(f.AST.Name.Name, "_test")
		if dir := path.Dir(f.Path); slices.Contains(vague, name) && !seen[dir] {
			seen[dir] = true
			problems = append(problems, fmt.Sprintf("%s: a package named %s says nothing of what it is", dir, name))
		}
	}
	return problems
}

// CheckInits returns one line for each init function, except those that link a driver.
func CheckInits(files []File) []string {
	var problems []string
	for _, f := range files {
		if within(path.Dir(f.Path), "internal/drivers") && strings.HasPrefix(path.Base(f.Path), "builtin_") {
			continue
		}
		for _, d := range f.AST.Decls {
			if function, ok := d.(*ast.FuncDecl); ok && function.Recv == nil && function.Name.Name == "init" {
				problems = append(problems, fmt.Sprintf("%s: only builtin_<driver>.go has an init", f.At(d)))
			}
		}
	}
	return problems
}

var promise = regexp.MustCompile(`\b(TODO|FIXME|HACK)\b`)

// CheckPromises returns one line for each comment that announces missing work.
func CheckPromises(files []File) []string {
	var problems []string
	for _, f := range files {
		for _, group := range f.AST.Comments {
			for _, c := range group.List {
				if word := promise.FindString(c.Text); word != "" {
					problems = append(problems, fmt.Sprintf("%s: a %s; do it, or leave it out", f.At(c), word))
				}
			}
		}
	}
	return problems
}

// CheckSkips returns one line for each test that may skip itself. Fuzz tests may skip an input.
func CheckSkips(files []File) []string {
	skips := []string{"Skip", "Skipf", "SkipNow"}
	tests := []string{"t", "b", "tb"}
	var problems []string
	for _, f := range files {
		for _, d := range f.AST.Decls {
			if function, ok := d.(*ast.FuncDecl); !f.beside() || ok && strings.HasPrefix(function.Name.Name, "Fuzz") {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				selector, ok := n.(*ast.SelectorExpr)
				if !ok || !slices.Contains(skips, selector.Sel.Name) {
					return true
				}
				if id, ok := selector.X.(*ast.Ident); ok && slices.Contains(tests, id.Name) {
					problems = append(problems, fmt.Sprintf("%s: a test that skips itself proves nothing", f.At(n)))
				}
				return true
			})
		}
	}
	return problems
}
