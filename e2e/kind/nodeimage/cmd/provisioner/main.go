// Command provisioner makes a volume for each claim as a folder on the node that
// the scheduler chose. It runs on every node, as a DaemonSet, and serves the
// claims of its own, so that no helper pods are needed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// annSelectedNode is how the scheduler tells its choice.
const annSelectedNode = "volume.kubernetes.io/selected-node"

// folders provisions folders below dir, which is at the same path on the node
// and in this container.
type folders struct {
	dir  string
	node string
}

// ShouldProvision implements controller.Qualifier: the claim is this node's.
func (f folders) ShouldProvision(_ context.Context, claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[annSelectedNode] == f.node
}

// Provision implements controller.Provisioner.
func (f folders) Provision(_ context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if o.PVC.Spec.Selector != nil {
		return nil, controller.ProvisioningFinished, errors.New("a claim with a selector is not supported")
	}
	path := filepath.Join(f.dir, o.PVC.Namespace+"_"+o.PVC.Name+"_"+o.PVName)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// Pods run as any user, and the mode of MkdirAll is subject to the umask.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			AccessModes:                   o.PVC.Spec.AccessModes,
			VolumeMode:                    o.PVC.Spec.VolumeMode,
			MountOptions:                  o.StorageClass.MountOptions,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: o.PVC.Spec.Resources.Requests[corev1.ResourceStorage]},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{f.node},
				}}}},
			}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete implements controller.Provisioner.
func (f folders) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	if nodeOf(volume) != f.node {
		return &controller.IgnoredError{Reason: "the volume is on another node"}
	}
	if volume.Spec.HostPath == nil || filepath.Dir(filepath.Clean(volume.Spec.HostPath.Path)) != f.dir {
		return fmt.Errorf("volume %s is not a folder in %s", volume.Name, f.dir)
	}
	return os.RemoveAll(volume.Spec.HostPath.Path)
}

// nodeOf is the node that the volume is bound to.
func nodeOf(volume *corev1.PersistentVolume) string {
	if a := volume.Spec.NodeAffinity; a != nil && a.Required != nil {
		for _, term := range a.Required.NodeSelectorTerms {
			for _, e := range term.MatchExpressions {
				if e.Key == corev1.LabelHostname && len(e.Values) == 1 {
					return e.Values[0]
				}
			}
		}
	}
	return ""
}

func main() {
	klog.InitFlags(nil)
	name := flag.String("name", "sealane.local/folder", "name of the provisioner in its StorageClass")
	dir := flag.String("dir", "/var/local-path-provisioner", "folder for the volumes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *name, folders{dir: filepath.Clean(*dir), node: os.Getenv("NODE_NAME")}); err != nil {
		klog.ErrorS(err, "Cannot provision")
		os.Exit(1)
	}
}

func run(ctx context.Context, name string, f folders) error {
	if f.node == "" {
		return errors.New("NODE_NAME is not set")
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	// Each instance has claims of its own: no leader.
	controller.NewProvisionController(ctx, client, name, f, controller.LeaderElection(false)).Run(ctx)
	return nil
}
