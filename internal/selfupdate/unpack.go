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

// unpacker extracts one file from an archive. It checks all entries, and refuses an archive
// with an entry that no release would contain.
type unpacker struct {
	bounds
	want string // name of the file to extract
	to   string // path to extract the file to
	sum  string // SHA-256 of the file in hexadecimal, or "" until the file is written
}

// unpack extracts the file from the archive. The archive's name determines the archive's format.
func (u *unpacker) unpack(archive *os.File) error {
	take := u.tar
	if strings.HasSuffix(archive.Name(), ".zip") {
		take = u.zip
	}
	if err := take(archive); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(archive.Name()), err)
	}
	if u.sum == "" {
		return fmt.Errorf("unpack %s: it does not contain %s", filepath.Base(archive.Name()), u.want)
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
			// Read to the end of the archive, because gzip's checksum is there.
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

// entry checks an entry of the archive, and extracts it if it is the wanted file.
func (u *unpacker) entry(name string, mode os.FileMode, size int64, content io.Reader) error {
	switch {
	case !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, `\`):
		return fmt.Errorf("refused, because the path of the entry %.100q is outside of it", name)
	case !mode.IsRegular() && !mode.IsDir():
		return fmt.Errorf("refused, because the entry %.100q is neither a file nor a directory", name)
	case path.Clean(name) != u.want:
		return nil
	case mode.IsDir():
		return fmt.Errorf("refused, because %s in it is a directory", u.want)
	case u.sum != "":
		return fmt.Errorf("refused, because it contains %s twice", u.want)
	case size == 0:
		return fmt.Errorf("refused, because %s in it is empty", u.want)
	case size > u.bounds.program:
		return errBomb
	}
	return u.take(content)
}

// take writes the content durably to the extracted file, and records the file's checksum.
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
	return errors.Join(f.Chmod(0o755), f.Sync()) // independent of the umask
}

var errBomb = errors.New("refused, because it unpacks to more than the bound for releases")

// bounded is a reader with a limit. The field left is the number of bytes that may still be read
// before Read fails.
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
