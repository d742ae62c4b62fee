package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Text is a piece of prose: a comment or message of a Go file, or a paragraph of a document.
type Text struct {
	At    string // file:line
	Kind  TextKind
	Words string
}

// TextKind is the kind of source that a Text comes from.
type TextKind uint8

// Kinds of Text.
const (
	Comment TextKind = iota
	Message          // a string literal that contains a blank
	Document
)

// Maximum lengths of lines, in columns. A tab counts as four columns.
const (
	maxCodeColumns = 140
	maxDocColumns  = 100
)

// maxWhere is the maximum number of times that comments and documents may use the word "where" per
// 1,000 words.
const maxWhere = 1.5

// avoided returns patterns of words and phrases that plain technical English does not need. The key
// of a pattern is the advice for the writer. The patterns are assembled from parts so that this
// file does not match them.
func avoided() map[string]*regexp.Regexp {
	list := map[string]string{
		"again":                         "a" + "new",
		"fix or repair":                 "mend" + "(s|ed|ing)?",
		"the operator, or the subject":  "(who" + "ever|no" + "body|some" + "body)",
		"block or prevent":              "hin" + "der(s|ed|ing)?",
		"both, or the same":             "a" + "like",
		"before":                        "e" + "re",
		"handle or follow":              "(hee" + "d(s|ed|ing)?|obe" + "y(s|ed|ing)?)",
		"dead-letter":                   "(bur" + "y|bur" + "ies|bur" + "ied)",
		"retry":                         "in" + "sists?",
		"report or pass":                "to" + "ld",
		"cannot":                        "can n" + "ot",
		"two sentences":                 "of w" + "hich",
		"a name in place of the clause": "what (is|are|was|were|has|have|had|comes|came|lies|stands|follows|stays)",
		"an active verb":                "(is|are|was|be) waited f" + "or",
		"the owner's name":              "that one" + "'s",
	}
	patterns := make(map[string]*regexp.Regexp, len(list))
	for instead, words := range list {
		patterns[instead] = regexp.MustCompile(`(?i)\b` + words + `\b`)
	}
	return patterns
}

// Prose returns the comments of Go files, and the string literals that contain a blank.
func Prose(files []File) []Text {
	var texts []Text
	for _, f := range files {
		for _, group := range f.AST.Comments {
			texts = append(texts, Text{f.At(group), Comment, group.Text()})
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec:
				return false
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && strings.Contains(text, " ") {
					texts = append(texts, Text{f.At(n), Message, text})
				}
			}
			return true
		})
	}
	return texts
}

// Documents returns the lines of the Markdown files below root, without empty lines and code
// blocks.
func Documents(root fs.FS) ([]Text, error) {
	var texts []Text
	err := markdown(root, func(name string, lines []string) {
		fenced := false
		for i, line := range lines {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
			} else if !fenced && line != "" && !isCode(lines, i) {
				texts = append(texts, Text{fmt.Sprintf("%s:%d", name, i+1), Document, line})
			}
		}
	})
	return texts, err
}

// isCode reports whether a line belongs to an indented code block.
func isCode(lines []string, i int) bool {
	const indent = "    "
	return strings.HasPrefix(lines[i], indent) && (i == 0 || lines[i-1] == "" || strings.HasPrefix(lines[i-1], indent))
}

// markdown calls fn with the lines of each Markdown file below root.
func markdown(root fs.FS, fn func(name string, lines []string)) error {
	return fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(skippedDirs, d.Name()) || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".md" {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err == nil {
			fn(name, strings.Split(string(text), "\n"))
		}
		return err
	})
}

var code = regexp.MustCompile("`[^`]*`")

// CheckWords returns one line for each use of a word or phrase to avoid. A noun clause is allowed
// in a question or heading.
func CheckWords(texts []Text) []string {
	var problems []string
	patterns := avoided()
	for _, t := range texts {
		plain := code.ReplaceAllString(t.Words, "")
		for instead, pattern := range patterns {
			for _, m := range pattern.FindAllStringIndex(plain, -1) {
				if strings.Contains(instead, "clause") && asks(plain, m[0], m[1]) {
					continue
				}
				problems = append(problems, fmt.Sprintf("%s: write %s instead of %q", t.At, instead, plain[m[0]:m[1]]))
			}
		}
	}
	slices.Sort(problems)
	return problems
}

// asks reports whether the words text[from:to] start a question or a heading.
func asks(text string, from, to int) bool {
	end := strings.IndexAny(text[to:], ".?!;\n")
	return text[from] == 'W' || end >= 0 && text[to+end] == '?'
}

var where = regexp.MustCompile(`\b[wW]here\b`)

// CheckWhere returns one line if comments and documents use the word "where" too often. In this
// project it tended to replace the word "if".
func CheckWhere(texts []Text) []string {
	words, count := 0, 0
	for _, t := range texts {
		if t.Kind != Message {
			plain := code.ReplaceAllString(t.Words, "")
			words += len(strings.Fields(plain))
			count += len(where.FindAllString(plain, -1))
		}
	}
	if float64(count)*1000 > maxWhere*float64(words) {
		return []string{
			fmt.Sprintf(
				"%d times \"where\" in %d words of comments and documents; %.1f in 1,000 are allowed: write \"if\"", count,
				words, maxWhere,
			),
		}
	}
	return nil
}

// CheckColumns returns one line for each line of code or of a document that is too long. In
// documents it ignores tables, code blocks and lines with a link.
func CheckColumns(root fs.FS, files []File) ([]string, error) {
	var problems []string
	for _, f := range files {
		text, err := fs.ReadFile(root, f.Path)
		if err != nil {
			return nil, err
		}
		for i, line := range strings.Split(string(text), "\n") {
			if n := columns(line); n > maxCodeColumns {
				problems = append(problems, fmt.Sprintf("%s:%d: %d columns; at most %d", f.Path, i+1, n, maxCodeColumns))
			}
		}
	}
	err := markdown(root, func(name string, lines []string) {
		fenced := false
		for i, line := range lines {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
			}
			exempt := fenced || isCode(lines, i) || strings.HasPrefix(strings.TrimSpace(line), "|") ||
				strings.HasPrefix(line, "<!--") || strings.Contains(line, "://") || strings.Contains(line, "](")
			if n := columns(line); n > maxDocColumns && !exempt {
				problems = append(problems, fmt.Sprintf("%s:%d: %d columns; at most %d", name, i+1, n, maxDocColumns))
			}
		}
	})
	return problems, err
}

// columns returns the width of a line, in columns.
func columns(line string) int {
	n := 0
	for _, r := range line {
		if r == '\t' {
			n += 4
		} else {
			n++
		}
	}
	return n
}

// oldNames returns words that no declared name may contain.
func oldNames() []string {
	return []string{
		"a" + "new", "mend", "who" + "ever", "no" + "body", "some" + "body", "hin" + "der", "heed", "heeded",
		"bury", "buried", "obey", "insist", "wish", "wishes", "farewell", "ordeal", "to" + "ld", "barren",
		"crowded", "goodbye", "ledger", "exchanger", "asker",
		"persistently",
	}
}

// oldDeclarations returns names that no declaration at package level may have.
func oldDeclarations() []string {
	return []string{
		"shift", "attend", "carryOut", "unfilled", "persist", "Line", "Order", "spoken", "trouble", "letter",
		"word", "fly", "choices", "shape", "sheet", "outward", "Standing", "aside", "trial", "prove", "hearing",
		"Said", "Heard", "pen", "dip", "flight",
	}
}

// CheckDeclarations returns one line for each declared name that the project avoids.
func CheckDeclarations(files []File) []string {
	var problems []string
	words, names := oldNames(), oldDeclarations()
	for _, f := range files {
		outer := make(map[*ast.Ident]bool)
		for _, decl := range f.AST.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				outer[d.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						outer[s.Name] = true
					case *ast.ValueSpec:
						for _, name := range s.Names {
							outer[name] = true
						}
					}
				}
			}
		}
		for _, name := range declared(f.AST) {
			for _, word := range split(name.Name) {
				if slices.Contains(words, word) {
					problems = append(problems, fmt.Sprintf("%s: %s: %q is not a term of the field", f.At(name), name.Name, word))
				}
			}
			if outer[name] && slices.Contains(names, name.Name) {
				problems = append(problems, fmt.Sprintf("%s: %s is not a term of the field", f.At(name), name.Name))
			}
		}
	}
	return problems
}

// declared returns all names that a file declares, inside and outside functions.
func declared(file *ast.File) []*ast.Ident {
	var names []*ast.Ident
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			names = append(names, n.Name)
		case *ast.TypeSpec:
			names = append(names, n.Name)
		case *ast.ValueSpec:
			names = append(names, n.Names...)
		case *ast.Field:
			names = append(names, n.Names...)
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, left := range n.Lhs {
					if name, ok := left.(*ast.Ident); ok {
						names = append(names, name)
					}
				}
			}
		}
		return true
	})
	return names
}

// split returns the words of a name in lower case. A word starts at a capital or after an
// underscore.
func split(name string) []string {
	var words []string
	start := 0
	for i, r := range name {
		if i > 0 && (unicode.IsUpper(r) || r == '_') {
			words = append(words, strings.ToLower(strings.Trim(name[start:i], "_")))
			start = i
		}
	}
	return append(words, strings.ToLower(strings.Trim(name[start:], "_")))
}
