package devhq

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// These are the buckets of hq.db. All values except secrets are encoded as JSON.
const (
	bucketSecrets    = "secrets"    // name -> bytes
	bucketEnrolments = "enrolments" // code -> EnrolmentCode
	bucketSessions   = "sessions"   // id -> Session
	bucketJobs       = "jobs"       // id -> exportJob
)

// errNotFound means that the store does not have the key.
var errNotFound = errors.New("not found")

// store stores HQ's secrets, enrolments, sessions and export jobs in hq.db. Every write is durable
// when it returns. A file lock prevents a second HQ from using the same file.
type store struct{ db *bolt.DB }

func openStore(dir string) (*store, error) {
	path := filepath.Join(dir, "hq.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another HQ is using it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range []string{bucketSecrets, bucketEnrolments, bucketSessions, bucketJobs} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, err), db.Close())
	}
	return &store{db}, nil
}

func (s *store) close() error { return s.db.Close() }

// secret returns the secret with the given name. If there is no secret with that name yet, it calls
// the function create and stores the result.
func (s *store) secret(name string, create func() ([]byte, error)) ([]byte, error) {
	var secret []byte
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucketSecrets))
		if known := b.Get([]byte(name)); known != nil {
			secret = append([]byte(nil), known...)
			return nil
		}
		var err error
		if secret, err = create(); err != nil {
			return err
		}
		return b.Put([]byte(name), secret)
	})
	if err != nil {
		return nil, fmt.Errorf("keep the secret %s: %w", name, err)
	}
	return secret, nil
}

// put stores value, encoded as JSON, under key.
func put[T any](s *store, bucket, key string, value T) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", bucket, key, err)
	}
	err = s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), text) })
	if err != nil {
		return fmt.Errorf("store %s %q: %w", bucket, key, err)
	}
	return nil
}

// update changes the value of key in one transaction. If the key does not exist, the error is
// errNotFound. If the function change returns an error, update stores nothing and returns that
// error.
func update[T any](s *store, bucket, key string, change func(*T) error) (T, error) {
	var value T
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		text := b.Get([]byte(key))
		if text == nil {
			return errNotFound
		}
		if err := json.Unmarshal(text, &value); err != nil {
			return fmt.Errorf("decode %s %q: %w", bucket, key, err)
		}
		if err := change(&value); err != nil {
			return err
		}
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode %s %q: %w", bucket, key, err)
		}
		return b.Put([]byte(key), text)
	})
	return value, err
}

// all returns all values in a bucket, in the order of their keys.
func all[T any](s *store, bucket string) ([]T, error) {
	var values []T
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(bucket)).ForEach(func(key, text []byte) error {
			var value T
			if err := json.Unmarshal(text, &value); err != nil {
				return fmt.Errorf("decode %s %q: %w", bucket, key, err)
			}
			values = append(values, value)
			return nil
		})
	})
	return values, err
}

// remove deletes key from the bucket.
func (s *store) remove(bucket, key string) error {
	err := s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Delete([]byte(key)) })
	if err != nil {
		return fmt.Errorf("remove %s %q: %w", bucket, key, err)
	}
	return nil
}
