package selfupdate

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// unpacker takes one file out of an archive and looks at all the others. An
// archive that holds what ours never hold is refused as a whole.
type unpacker struct {
	bounds
	want string // the name of the one file
	to   string // where it goes
	sum  string // its SHA-256, once it is there
}

// unpack takes the program out of an archive, whose name says its form.
func (u *unpacker) unpack(archive *os.File) error {
	take := u.tar
	if strings.HasSuffix(archive.Name(), ".zip") {
		take = u.zip
	}
	if err := take(archive); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(archive.Name()), err)
	}
	if u.sum == "" {
		return fmt.Errorf("unpack %s: there is no %s in it", filepath.Base(archive.Name()), u.want)
	}
	return nil
}

func (u *unpacker) tar(archive *os.File) error {
	if err := rewind(archive); err != nil {
		return err
	}
	zipped, err := gzip.NewReader(bufio.NewReader(archive))
	if err != nil {
		return err
	}
	plain := &bounded{r: zipped, left: u.unpacked}
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			// To the end, where gzip's checksum is.
			_, err = io.Copy(io.Discard, plain)
			return err
		}
		if err != nil {
			return err
		}
		if err := u.entry(h.Name, h.FileInfo().Mode(), h.Size, r); err != nil {
			return err
		}
	}
}

func (u *unpacker) zip(archive *os.File) error {
	info, err := archive.Stat()
	if err != nil {
		return err
	}
	r, err := zip.NewReader(archive, info.Size())
	if err != nil {
		return err
	}
	left := u.unpacked
	for _, f := range r.File {
		size := int64(min(f.UncompressedSize64, 1<<62))
		if left -= size; left < 0 {
			return errBomb
		}
		in, err := f.Open()
		if err != nil {
			return err
		}
		if err := errors.Join(u.entry(f.Name, f.Mode(), size, in), in.Close()); err != nil {
			return err
		}
	}
	return nil
}

// entry looks at an entry, and takes it where it is the program.
func (u *unpacker) entry(name string, mode os.FileMode, size int64, content io.Reader) error {
	switch {
	case !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, `\`):
		return fmt.Errorf("refused, because the entry %.100q leads out of it", name)
	case !mode.IsRegular() && !mode.IsDir():
		return fmt.Errorf("refused, because the entry %.100q is neither a file nor a directory", name)
	case path.Clean(name) != u.want:
		return nil
	case mode.IsDir():
		return fmt.Errorf("refused, because %s in it is a directory", u.want)
	case u.sum != "":
		return fmt.Errorf("refused, because it holds %s twice", u.want)
	case size == 0:
		return fmt.Errorf("refused, because %s in it is empty", u.want)
	case size > u.bounds.program:
		return errBomb
	}
	return u.take(content)
}

// take writes the program, durably.
func (u *unpacker) take(content io.Reader) (err error) {
	f, err := os.OpenFile(u.to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), &bounded{r: content, left: u.bounds.program}); err != nil {
		return err
	}
	u.sum = hex.EncodeToString(sum.Sum(nil))
	return errors.Join(f.Chmod(0o755), f.Sync()) // whatever the umask says
}

var errBomb = errors.New("refused, because it unpacks to more than any release does")

// bounded fails where more is read than it may hold.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errBomb
	}
	return n, err
}
