package eventhub

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed peer.cjs package.json package-lock.json
var program embed.FS

// install returns the directory of the peer's program with the modules that it
// needs, as package-lock.json pins them: among the user's cached files, where
// they are downloaded once.
func install() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	hash := sha256.New()
	files, err := fs.ReadDir(program, ".")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		text, err := program.ReadFile(f.Name())
		if err != nil {
			return "", err
		}
		hash.Write(text)
	}
	dir := filepath.Join(cache, "eds-test", "eventhub-"+hex.EncodeToString(hash.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	return dir, download(dir)
}

// download makes the directory whole or not at all: other test processes may
// look for it, or make it, at the same time.
func download(dir string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("no npm on PATH: run `apt-get install nodejs npm`")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	draft, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(draft)
	if err := os.CopyFS(draft, program); err != nil {
		return err
	}
	cmd := exec.Command(npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = draft
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(draft, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			return err
		}
	}
	return nil
}
