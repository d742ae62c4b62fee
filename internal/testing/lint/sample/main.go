// Sample prints random doc comments and random sentences of the documents, for a reader who marks
// each text that is not clear at the first reading. The same seed selects the same texts.
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"

	"github.com/shopmonkeyus/eds/internal/testing/lint"
)

func main() {
	seed := flag.Uint64("seed", 1, "picks the texts")
	comments := flag.Int("comments", 100, "number of doc comments")
	sentences := flag.Int("sentences", 50, "number of sentences")
	flag.Parse()
	if err := run(os.DirFS("."), *seed, *comments, *sentences, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		os.Exit(1)
	}
}

// run prints a numbered sample of the comments and documents below root.
func run(root fs.FS, seed uint64, comments, sentences int, out io.Writer) error {
	files, err := lint.Files(root)
	if err != nil {
		return err
	}
	paragraphs, err := lint.Documents(root)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	fmt.Fprintf(out, "# Doc comments, seed %d\n", seed)
	print(out, pick(random, docComments(files), comments))
	fmt.Fprintf(out, "\n# Sentences of the documents, seed %d\n", seed)
	print(out, pick(random, splitSentences(paragraphs), sentences))
	return nil
}

func print(out io.Writer, texts []lint.Text) {
	for i, t := range texts {
		fmt.Fprintf(out, "\n%d. (%s) %s\n", i+1, t.At, strings.TrimSpace(t.Words))
	}
}

// pick returns n random texts, or all texts in random order if there are fewer.
func pick(random *rand.Rand, texts []lint.Text, n int) []lint.Text {
	random.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
	return texts[:min(n, len(texts))]
}

// docComments returns the doc comments of declarations outside tests.
func docComments(files []lint.File) []lint.Text {
	var texts []lint.Text
	for _, f := range files {
		if f.Test() {
			continue
		}
		add := func(doc *ast.CommentGroup) {
			if doc != nil {
				texts = append(texts, lint.Text{At: f.At(doc), Kind: lint.Comment, Words: doc.Text()})
			}
		}
		add(f.AST.Doc)
		for _, decl := range f.AST.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				add(d.Doc)
			case *ast.GenDecl:
				add(d.Doc)
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						add(s.Doc)
					case *ast.ValueSpec:
						add(s.Doc)
					}
				}
			}
		}
	}
	return texts
}

var (
	sentenceEnd = regexp.MustCompile(`[.!?]\s+`)
	wordPattern = regexp.MustCompile(`[A-Za-z]{2,}`)
)

// splitSentences returns the sentences in the lines of paragraphs, list items and table rows. It
// omits sentences of fewer than four words.
func splitSentences(lines []lint.Text) []lint.Text {
	var texts []lint.Text
	paragraph, at := "", ""
	flush := func() {
		for _, sentence := range sentenceEnd.Split(paragraph, -1) {
			if len(wordPattern.FindAllString(sentence, -1)) >= 4 {
				texts = append(texts, lint.Text{At: at, Kind: lint.Document, Words: sentence})
			}
		}
		paragraph = ""
	}
	last := ""
	for _, l := range lines {
		start := strings.HasPrefix(l.Words, "|") || strings.HasPrefix(l.Words, "#") || strings.HasPrefix(strings.TrimSpace(l.Words), "- ")
		if start || !follows(last, l.At) {
			flush()
			at = l.At
		}
		paragraph += strings.TrimSpace(l.Words) + " "
		last = l.At
	}
	flush()
	return texts
}

// follows reports whether the second position is one line after the first position in the same
// file. Positions have the form file:line.
func follows(last, next string) bool {
	var a, b int
	file, line, _ := strings.Cut(last, ":")
	other, number, _ := strings.Cut(next, ":")
	_, err1 := fmt.Sscan(line, &a)
	_, err2 := fmt.Sscan(number, &b)
	return err1 == nil && err2 == nil && file == other && b == a+1
}
