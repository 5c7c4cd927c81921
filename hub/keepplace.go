package hub

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// keepInterval is how often, at most, what is in effect is written to a file,
	// and sharedInterval to a ConfigMap.
	keepInterval   = 200 * time.Millisecond
	sharedInterval = 2 * time.Second
	// maxKept bounds what is kept, and maxShared what is left of it in a
	// ConfigMap, which takes 1 MiB.
	maxKept   = 256 << 20
	maxShared = 1000 << 10
)

// errTooLarge says that what is in effect does not fit where it shall be kept.
var errTooLarge = errors.New("what is in effect is too large to be kept")

// keepPlace is where a keeper keeps. Nil data stands for nothing.
type keepPlace interface {
	read(ctx context.Context) ([]byte, error)
	write(ctx context.Context, data []byte) error
	// interval is how often, at most, something may be written.
	interval() time.Duration
	String() string
}

// keepFile keeps in a file.
type keepFile string

func (f keepFile) String() string          { return string(f) }
func (f keepFile) interval() time.Duration { return keepInterval }

func (f keepFile) read(context.Context) ([]byte, error) {
	file, err := os.Open(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readBounded(file)
}

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKept+1))
	if err == nil && len(data) > maxKept {
		err = fmt.Errorf("larger than %d bytes", maxKept)
	}
	return data, err
}

func (f keepFile) write(_ context.Context, data []byte) error {
	if data == nil {
		if err := os.Remove(string(f)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if len(data) > maxKept {
		return fmt.Errorf("%w: %d of at most %d bytes", errTooLarge, len(data), maxKept)
	}
	return writeFile(string(f), data, 0o600)
}

// keepConfigMap keeps in a ConfigMap, for replicas that share no folder. Only the
// one that leads writes.
type keepConfigMap struct {
	maps configMaps
	name string
}

// configMaps is what is needed of a namespace's ConfigMaps.
type configMaps interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.ConfigMap, error)
	Create(ctx context.Context, m *corev1.ConfigMap, o metav1.CreateOptions) (*corev1.ConfigMap, error)
	Update(ctx context.Context, m *corev1.ConfigMap, o metav1.UpdateOptions) (*corev1.ConfigMap, error)
}

// keptKey is the ConfigMap's key: the file, compressed.
const keptKey = "in-effect.gz"

func (c *keepConfigMap) String() string          { return "ConfigMap " + c.name }
func (c *keepConfigMap) interval() time.Duration { return sharedInterval }

func (c *keepConfigMap) read(ctx context.Context) ([]byte, error) {
	m, err := c.maps.Get(ctx, c.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && m.BinaryData[keptKey] == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(m.BinaryData[keptKey]))
	if err != nil {
		return nil, err
	}
	return readBounded(z)
}

func (c *keepConfigMap) write(ctx context.Context, data []byte) error {
	want := map[string][]byte{}
	if data != nil {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		_, err := z.Write(data)
		if err := errors.Join(err, z.Close()); err != nil {
			return err
		}
		if buf.Len() > maxShared {
			return fmt.Errorf("%w: %d of at most %d bytes, compressed", errTooLarge, buf.Len(), maxShared)
		}
		want[keptKey] = buf.Bytes()
	}
	m, err := c.maps.Get(ctx, c.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = c.maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Name:   c.name,
				Labels: map[string]string{"app.kubernetes.io/managed-by": "sealane-hub", "app.kubernetes.io/part-of": "sealane"},
			},
			BinaryData: want,
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	m.BinaryData = want
	_, err = c.maps.Update(ctx, m, metav1.UpdateOptions{})
	return err
}
