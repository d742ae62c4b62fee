package durable_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/shopmonkeyus/eds/internal/durable"
)

func ExampleReplace() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "position")
	for _, content := range []string{"41", "42"} {
		err := durable.Replace(path, ".position-*", func(w io.Writer) error {
			_, err := io.WriteString(w, content)
			return err
		})
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	content, err := os.ReadFile(path)
	fmt.Println(string(content), err)
	// Output: 42 <nil>
}
